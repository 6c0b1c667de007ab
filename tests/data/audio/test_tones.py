"""Digits as tones: the same whenever they are asked for, no string in both splits, and each digit its chord."""

import itertools

import numpy as np
import pytest

from transformer.data.audio.log_mel import HOP, RATE, WINDOW
from transformer.data.audio.tones import CHORDS, FEWEST, FRAMES, MOST, Tones, sounded, split_of


def test_a_clip_depends_on_its_split_and_number_alone():
    forwards = [Tones("train")[index] for index in range(8)]
    again = Tones("train")
    for index in reversed(range(8)):
        assert again[index].transcript == forwards[index].transcript
        np.testing.assert_array_equal(again[index].samples(), forwards[index].samples())
    other = Tones("validation")[0]
    assert (other.transcript, other.name) != (forwards[0].transcript, forwards[0].name)
    assert len({clip.samples().tobytes() for clip in forwards}) == 8


def test_no_string_is_in_both_splits():
    said = {split: {Tones(split)[index].transcript for index in range(512)} for split in ("train", "validation")}
    assert not said["train"] & said["validation"]
    for split, strings in said.items():
        assert {split_of(digits) for digits in strings} == {split}
        assert {len(digits) for digits in strings} == set(range(FEWEST, MOST + 1))
        assert {*itertools.chain(*strings)} == {*CHORDS}
    every = ["".join(digits) for digits in itertools.product(CHORDS, repeat=3)]
    assert 0.15 < np.mean([split_of(digits) == "validation" for digits in every]) < 0.25


@pytest.mark.parametrize("digit", CHORDS)
def test_a_digit_is_its_chord(digit):
    samples = sounded(digit, np.random.default_rng(0))
    spectrum = np.abs(np.fft.rfft(samples, RATE))  # a bin a hertz
    for hertz in CHORDS[digit]:
        heard = hertz - 20 + spectrum[hertz - 20 : hertz + 21].argmax()
        assert abs(heard - hertz) <= 4
    outside = np.ones(len(spectrum), bool)
    for hertz in CHORDS[digit]:
        outside[hertz - 60 : hertz + 61] = False
    assert spectrum[outside].max() < spectrum.max() / 4


def test_a_clip_is_never_cut_off():
    """Two tones at their loudest, and the noise on top, stay below 1."""
    clips = [sounded("1590", np.random.default_rng(seed)) for seed in range(50)]
    assert {clip.dtype for clip in clips} == {np.dtype(np.float32)}
    assert 0.3 < max(np.abs(clip).max() for clip in clips) < 1


def test_the_longest_clip_fits():
    longest = max(len(sounded("0" * MOST, np.random.default_rng(seed))) for seed in range(200))
    assert WINDOW < longest <= FRAMES * HOP
