"""Digits as chords of two tones, as telephones dial them: speech that needs no files, and that a tiny model learns."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import xxhash

from transformer.data.audio.log_mel import HOP, RATE
from transformer.data.audio.source import Clip, SoundSource
from transformer.data.splits import Split, digest

CHORDS = {
    "1": (697, 1209), "2": (697, 1336), "3": (697, 1477),
    "4": (770, 1209), "5": (770, 1336), "6": (770, 1477),
    "7": (852, 1209), "8": (852, 1336), "9": (852, 1477),
    "0": (941, 1336),
}  # fmt: skip
"""Digit -> hertz of its tones (ITU-T Q.23)."""
FEWEST, MOST = 2, 6
"""Digits of a clip."""
FRAMES = 120
"""Frames that hold the longest clip."""
_LENGTH, _GAP, _BEFORE = (0.06, 0.1), (0.03, 0.06), (0.0, 0.15)
"""Seconds, from and to: of a digit, from one to the next, and before the first."""
_LOUDNESS, _NOISE = (0.1, 0.4), (0.002, 0.03)
"""Amplitude of a tone, and standard deviation of the noise, from and to: no clip reaches 1."""
_RAMP = 0.005
"""Seconds in which a tone comes and goes."""
_SIZES = {"train": 65_536, "validation": 512}
_HELD_OUT = 0.2
"""The share of strings that no training clip has."""


def split_of(digits: str) -> Split:
    """Returns the split that a string of digits belongs to: no string is in both."""
    return "validation" if xxhash.xxh3_64_intdigest(digits.encode()) < _HELD_OUT * 2**64 else "train"


class Tones(SoundSource):
    """Clips of digits; clip i of a split is made by a generator of these two alone."""

    def __init__(self, split: Split):
        self._split: Split = split

    def __len__(self) -> int:
        return _SIZES[self._split]

    def __getitem__(self, index: int) -> Clip:
        rng = np.random.default_rng((index, self._split == "validation"))
        digits = self._digits(rng)
        return Clip(sounded(digits, rng), f"{self._split} clip {index}", digits)

    @property
    def fingerprint(self) -> str:
        return digest(["tones", self._split, str(len(self))])

    def texts(self) -> Sequence[str]:
        split = self._split == "validation"
        return [self._digits(np.random.default_rng((index, split))) for index in range(len(self))]

    def _digits(self, rng: np.random.Generator) -> str:
        while True:
            digits = "".join(map(str, rng.integers(10, size=rng.integers(FEWEST, MOST + 1))))
            if split_of(digits) == self._split:
                return digits


def sounded(digits: str, rng: np.random.Generator) -> np.ndarray:
    """Returns float32 [samples] of some digits: tempo, gaps, loudness, phases and noise are drawn at random."""
    # Numbers of Python's own: on arrays of so few, NumPy takes longer to begin than to compute.
    tempo, before, loudness, noise, *each = rng.random(4 + 4 * len(digits)).tolist()
    count, start = round(_between(_LENGTH, tempo) * RATE), round(_between(_BEFORE, before) * RATE)
    starts, shares = [], []
    for gap, *phases, share in zip(*(each[number::4] for number in range(4)), strict=True):
        starts.append(start)
        start += count + round(_between(_GAP, gap) * RATE)
        amplitude = _between(_LOUDNESS, loudness) * (0.5 + 0.5 * share)
        # The sine of a sum: any phase is made of a table's sine and cosine.
        shares.append([amplitude * turn(math.tau * phase) for phase in phases for turn in (math.cos, math.sin)])
    assert start <= FRAMES * HOP
    # White, and even: it takes a fifth of the time that bell-shaped noise does.
    sound = rng.random(start, np.float32)
    sound -= np.float32(0.5)
    sound *= np.float32(12**0.5 * _between(_NOISE, noise))
    ramp, falling = _ramps()
    for digit, amounts, begin in zip(digits, np.array(shares, np.float32), starts, strict=True):
        tone = np.einsum("p,pt->t", amounts, _waves(digit)[:, :count])
        tone[: len(ramp)] *= ramp
        tone[-len(ramp) :] *= falling
        sound[begin : begin + count] += tone
    return sound


def _between(bounds: tuple[float, float], share: float) -> float:
    """Returns what lies at a share of the way from one bound to the other."""
    return bounds[0] + (bounds[1] - bounds[0]) * share


@functools.cache
def _ramps() -> tuple[np.ndarray, np.ndarray]:
    """Returns float32 factors of the first and of the last samples of a tone."""
    ramp = np.arange(round(_RAMP * RATE), dtype=np.float32) / np.float32(_RAMP * RATE)
    return ramp, ramp[::-1].copy()


@functools.cache
def _waves(digit: str) -> np.ndarray:
    """Returns float32 [4, samples of the longest]: the sine and the cosine of each of a digit's two tones."""
    time = np.arange(round(_LENGTH[1] * RATE)) / RATE
    angles = [2 * np.pi * hertz * time for hertz in CHORDS[digit]]
    return np.array([turn(angle) for angle in angles for turn in (np.sin, np.cos)], np.float32)
