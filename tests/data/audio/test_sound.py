"""Sound files: every format, rate and number of channels; what cannot be read is named."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.data.audio.sound import load, resampled
from transformer.errors import UserError


def tone(rate, *, hertz=440.0, seconds=1.0):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize(("kind", "subtype"), [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_24")])
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
def test_a_tone_keeps_its_pitch_and_loudness(kind, subtype, rate, tmp_path):
    path = tmp_path / f"a.{kind}"
    left = tone(rate)
    soundfile.write(path, np.stack([left, 0.5 * left], axis=1), rate, subtype=subtype)
    samples = load(path)
    assert (samples.dtype, len(samples)) == (np.float32, 16000)
    spectrum = np.abs(np.fft.rfft(samples)) * 2 / len(samples)
    assert spectrum.argmax() == 440
    assert spectrum[440] == pytest.approx(0.375, rel=1e-2)  # the mean of both channels
    assert np.delete(spectrum, slice(430, 451)).max() < 0.01


@given(st.integers(1, 3000), st.sampled_from([8000, 11025, 22050, 44100, 48000, 96000]))
@settings(deadline=None)
def test_resampling_keeps_the_duration(count, rate):
    assert len(resampled(np.ones(count, np.float32), rate)) == -(-count * 16000 // rate)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "a.wav: no sound that can be read"),
        (b"a text that is named as a sound", "a.wav: no sound that can be read"),
        (np.zeros(0, np.float32), "a.wav: it has no samples"),
        (np.array([0.5, np.nan] * 400, np.float32), "a.wav: some of its samples are no numbers"),
        (np.zeros(100, np.float32), "a.wav: 6 ms of sound, too short"),
        (None, "a.wav: no such file"),
    ],
)
def test_what_cannot_be_heard_is_named(content, words, tmp_path):
    path = tmp_path / "a.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        soundfile.write(path, content, 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=words) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_a_flac_that_ends_early_is_named(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UserError, match="a.flac: no sound that can be read"):
        load(path)
