"""Augmentation of recordings: masks where and as often as the paper draws them, noise as loud as asked, and speed."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.checks import FieldError
from transformer.data import pipeline
from transformer.data.audio.augmentation import Augmentation, at_speed, span, with_noise
from transformer.data.audio.config import AudioConfig
from transformer.data.audio.log_mel import RATE
from transformer.data.audio.records import SpeechReading
from transformer.data.kinds import open_dataset
from transformer.objectives.objective import ExampleMaker, Setting
from transformer.objectives.transcription import Transcription

ALL = {
    "speeds": (0.9, 1.0, 1.1), "noise": 0.5, "frequency_masks": 2, "time_masks": 2, "time_mask_share": 0.3,
}  # fmt: skip
SEEDS = st.integers(0, 2**32 - 1)


def masked(features, frames, seed=0, **fields):
    return Augmentation(AudioConfig(**fields)).spectrogram(features, frames, np.random.default_rng(seed))


def noisy(frames=60, bins=40):
    """Returns a spectrogram no value of which is its mean."""
    return np.random.default_rng(0).normal(0, 1, (frames, bins)).astype(np.float32)


@given(SEEDS, st.integers(0, 4), st.integers(0, 4), st.integers(0, 90), st.integers(0, 90), st.integers(1, 60))
def test_masks_are_whole_bands_and_stretches_within_their_bounds(seed, bands, stretches, widest, longest, frames):
    before = noisy()
    after = masked(
        before, frames, seed, frequency_masks=bands, time_masks=stretches, frequency_mask_bins=widest,
        time_mask_frames=longest, time_mask_share=0.5,
    )  # fmt: skip
    hidden = after != before
    np.testing.assert_array_equal(after[hidden], before[:frames].mean())
    assert not hidden[frames:].any()  # silence is no recording
    rows, columns = hidden.all(axis=1), hidden[:frames].all(axis=0)
    if not (rows[:frames].all() or columns.all()):  # it is the union of whole bands and whole stretches
        np.testing.assert_array_equal(hidden[:frames], rows[:frames, None] | columns)
        assert columns.sum() <= bands * widest
        assert rows.sum() <= stretches * min(longest, frames // 2)


@given(st.integers(1, 6), st.integers(0, 6))
def test_every_width_is_as_likely_and_every_place_of_it(length, widest):
    rng, drawn = np.random.default_rng(0), 4000
    spans = [span(length, widest, rng) for _ in range(drawn)]
    widths = np.bincount([each.stop - each.start for each in spans], minlength=min(widest, length) + 1)
    assert len(widths) == min(widest, length) + 1
    expected = drawn / len(widths)
    assert abs(widths - expected).max() < 6 * np.sqrt(expected)
    for width, count in enumerate(widths):
        starts = np.bincount([each.start for each in spans if each.stop - each.start == width])
        assert len(starts) == length - width + 1
        assert abs(starts - count / len(starts)).max() < 6 * np.sqrt(count / len(starts))


def test_as_much_is_hidden_as_the_closed_form_says():
    # One band of 0 to W of M bins hides W / 2 of them on average.
    before, widest, bins = noisy(8, 40), 20, 40
    shares = [
        (masked(before, 8, s, frequency_masks=1, frequency_mask_bins=widest) != before).mean() for s in range(3000)
    ]
    deviation = np.sqrt(((widest + 1) ** 2 - 1) / 12) / bins / np.sqrt(len(shares))
    assert abs(np.mean(shares) - widest / 2 / bins) < 4 * deviation


def test_without_masks_nothing_is_drawn_and_nothing_copied():
    before, rng = noisy(), np.random.default_rng(0)
    assert Augmentation(AudioConfig()).spectrogram(before, 10, rng) is before
    sound = before[0]
    assert Augmentation(AudioConfig()).sound(sound, 100, rng) is sound
    assert rng.random() == np.random.default_rng(0).random()


@given(SEEDS, st.floats(-20, 60), st.integers(100, 20_000))
def test_noise_is_as_far_below_as_asked(seed, snr, count):
    rng = np.random.default_rng(seed)
    sound = rng.uniform(-1, 1, count).astype(np.float32)
    heard = with_noise(sound, snr, rng)
    assert heard.dtype == np.float32
    noise = heard.astype(np.float64) - sound
    ratio = 10 * np.log10(np.square(sound, dtype=np.float64).mean() / np.square(noise).mean())
    assert ratio == pytest.approx(snr, abs=0.01)


def test_noise_is_white():
    sound = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    noise = with_noise(sound, 0, np.random.default_rng(0)) - sound
    power = np.abs(np.fft.rfft(noise)[1:-1]) ** 2
    eighths = [part.mean() / power.mean() for part in np.array_split(power, 8)]
    assert 0.9 < min(eighths) < max(eighths) < 1.1


def test_silence_stays_silent():
    np.testing.assert_array_equal(with_noise(np.zeros(300, np.float32), 10, np.random.default_rng(0)), 0)


@pytest.mark.parametrize("speed", [0.5, 0.9, 0.97, 1.0, 1.1, 2.0])
def test_speed_changes_pitch_and_length_alike(speed):
    sound = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    played = at_speed(sound, speed)
    assert played.dtype == np.float32
    assert len(played) == int(np.ceil(round(RATE / speed, 6)))
    spectrum = np.abs(np.fft.rfft(played * np.hanning(len(played)), RATE * 4))
    assert spectrum.argmax() / 4 == pytest.approx(1000 * speed, abs=1)
    middle = played[len(played) // 4 : -len(played) // 4]
    assert np.sqrt(np.square(middle).mean()) == pytest.approx(np.sqrt(0.5), rel=0.02)


def test_a_speed_that_makes_a_recording_too_long_is_not_taken():
    sound = np.ones(1000, np.float32)
    slower = Augmentation(AudioConfig(speeds=(0.5,)))
    assert len(slower.sound(sound, 2000, np.random.default_rng(0))) == 2000
    assert len(slower.sound(sound, 1999, np.random.default_rng(0))) == 1000


def opened(**fields):
    return open_dataset(AudioConfig(**fields), SpeechReading(8), vocab_size=384, input_size=(120, 80))


def rows(dataset, step, **options):
    setting = Setting(dataset.vocabulary, 8, 1)
    make = ExampleMaker(Transcription(), setting)
    every = pipeline.train_batches(dataset.train, dataset.weights, example=make, batch_size=8, seed=3, **options)
    return every[step]["inputs"]["features"]


def test_a_batch_depends_on_its_step_alone():
    dataset = opened(**ALL)
    batch = rows(dataset, 5)
    np.testing.assert_array_equal(rows(opened(**ALL), 5), batch)
    np.testing.assert_array_equal(rows(dataset, 5, rows=[2, 6]), batch[[2, 6]])
    plain = rows(opened(), 5)
    assert all((mine != theirs).any() for mine, theirs in zip(batch, plain, strict=True))


def test_validation_is_not_varied():
    varied, plain = opened(**ALL), opened()
    for index in range(4):
        np.testing.assert_array_equal(varied.validation[index]["features"], plain.validation[index]["features"])
    assert varied.about.identity == plain.about.identity
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(varied.validation.draw(1, rng)["features"], plain.validation[1]["features"])


@pytest.mark.parametrize(
    "fields",
    [
        {"speeds": (0.4,)}, {"speeds": (0.905,)}, {"speeds": (float("nan"),)}, {"noise": 1.5},
        {"noise_snr": (3.0, 1.0)}, {"noise_snr": (0.0, float("inf"))},
        {"frequency_masks": -1}, {"frequency_mask_bins": -1}, {"time_masks": -1},
        {"time_mask_frames": -1}, {"time_mask_share": 1.1},
    ],
)  # fmt: skip
def test_fields_out_of_range_are_refused_by_name(fields):
    with pytest.raises(FieldError, match=next(iter(fields))):
        dataclasses.replace(AudioConfig(), **fields)
