"""Digits as chords of two tones, as telephones dial them: speech that needs no files, and that a tiny model learns."""

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
    time = np.arange(round(rng.uniform(*_LENGTH) * RATE)) / RATE
    before = rng.uniform(*_BEFORE)
    drawn = rng.random((len(digits), 4))
    phases, loudness, gaps = drawn[:, :2], 0.5 + 0.5 * drawn[:, 2], _GAP[0] + (_GAP[1] - _GAP[0]) * drawn[:, 3]
    hertz = np.array([CHORDS[digit] for digit in digits])
    chords = np.sin(2 * np.pi * (hertz[:, :, None] * time + phases[:, :, None])).sum(axis=1)
    ramp = np.minimum(1, np.minimum(time, time[::-1]) / _RAMP)
    tones = loudness[:, None] * ramp * chords
    pieces = [np.zeros(round(before * RATE))]
    for tone, gap in zip(tones, gaps.tolist(), strict=True):
        pieces += [tone, np.zeros(round(gap * RATE))]
    sound = rng.uniform(0.1, 0.4) * np.concatenate(pieces)
    noise = rng.normal(0, rng.uniform(0.002, 0.03), len(sound))
    assert len(sound) <= FRAMES * HOP
    return np.clip(sound + noise, -1, 1).astype(np.float32)
