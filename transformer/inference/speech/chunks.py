"""Chunks: a recording cut in overlapping parts that are heard on their own, and their tokens joined again.

Where two neighbours overlap both say the same words, except near the edges, where words are cut in two. The tokens of
one are slid along those of the other to where most of them agree, and of what they share each gives the half that is
farther from its own edge. This is how Hugging Face Transformers' pipeline joins chunks, token for token.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transformer import checks


@dataclasses.dataclass(frozen=True)
class Chunking:
    """How a recording is cut."""

    chunk: float
    """Seconds of a chunk."""
    stride: float | None = None
    """Seconds at each edge that the neighbour hears too, so that two neighbours share twice as much; None: a sixth of
    the chunk."""

    def __post_init__(self) -> None:
        checks.rule(self, "chunk", self.chunk >= 1, "it must be at least 1 s, to hold words")
        # Chunks that do not overlap would be joined at words that merely look alike.
        checks.above(self, 0, "stride")
        fits = self.stride is None or 2 * self.stride < self.chunk
        checks.rule(self, "stride", fits, f"it must be below half a chunk, {self.chunk / 2:g} s")

    def spans(self, samples: int, rate: int) -> list[tuple[int, int]]:
        """Returns the first sample of each chunk of a recording, and the one after its last.

        Args:
          samples: of the recording, at least 1.
          rate: samples a second.
        """
        length = round(self.chunk * rate)
        stride = round((self.chunk / 6 if self.stride is None else self.stride) * rate)
        step = max(length - 2 * stride, 1)
        # The first chunk that reaches the end is the last one.
        starts = range(0, max(samples - length, 0) + step, step)
        return [(start, min(start + length, samples)) for start in starts]


def merged(chunks: Sequence[Sequence[int]]) -> list[int]:
    """Returns the tokens of a recording from those of its chunks, in order; where two share nothing, both whole."""
    whole: list[int] = []
    left = list(chunks[0])
    for right in chunks[1:]:
        left_begin, right_begin, shared = _overlap(left, right)
        whole += left[: left_begin + shared // 2]
        left = list(right[right_begin + shared // 2 :])
    return whole + left


def _overlap(left: Sequence[int], right: Sequence[int]) -> tuple[int, int, int]:
    """Returns where two chunks' shared tokens begin in the left one and in the right one, and how many these are."""
    lefts, rights = np.asarray(left, np.int64), np.asarray(right, np.int64)
    best, overlap = 0.0, (len(left), 0, 0)
    for slid in range(1, len(left) + len(right)):
        left_begin, right_begin = max(len(left) - slid, 0), max(slid - len(left), 0)
        shared = min(len(left) - left_begin, len(right) - right_begin)
        agreed = int(np.sum(lefts[left_begin : left_begin + shared] == rights[right_begin : right_begin + shared]))
        # What agrees equally well goes to the longer overlap; a single token agrees by chance.
        score = agreed / slid + slid / 10_000
        if agreed > 1 and score > best:
            best, overlap = score, (left_begin, right_begin, shared)
    return overlap
