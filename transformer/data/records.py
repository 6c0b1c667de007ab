"""Records: what an objective makes an example of, by index. The ways to cut a token store into them are in files of
their own; `Reading` says which one, and how long.
"""

import abc
import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

Record = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reading:
    """Which records an objective reads of a corpus."""

    kind: Literal["windows", "text", "documents", "pairs"]
    """`windows` of packed documents with their begin and end, `text` without them, parts of single `documents`, or
    rows of `pairs` of texts."""
    length: int
    """Tokens of a record; of its sources, where it has pairs."""
    overlap: int = 0
    """Tokens that a window shares with the next."""
    target_length: int = 0
    """Tokens of the targets of a row of pairs."""
    begin: bool = False
    """Whether the texts of a pair begin with <s>."""
    others: bool = False
    """Whether a part of a document comes with a part of another document."""


class Records(abc.ABC):
    """Random access to the records of a split of a corpus."""

    tokens: int
    """Tokens of the split."""
    text_bytes: int
    """Its bytes of UTF-8."""
    left_out: int = 0
    """Pairs that are too long for a row."""
    padding: float = 0.0
    """The share of the places of its rows of pairs, sources' and targets' together, that hold no token."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Record: ...

    def draw(self, index: int, rng: np.random.Generator) -> Record:
        """Record `index` with what else an example needs that is chosen at random."""
        del rng
        return self[index]

    def draw_many(self, indices: np.ndarray, rngs: Sequence[np.random.Generator]) -> Record:
        """The records at `indices`, each drawn with its own generator, stacked on a first axis."""
        return stack([self.draw(index, rng) for index, rng in zip(indices.tolist(), rngs, strict=True)])


def stack(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns dicts of arrays, nested alike, as one whose arrays have a first axis more."""
    return {
        name: stack([item[name] for item in items])
        if isinstance(value, dict)
        else np.stack([item[name] for item in items])
        for name, value in items[0].items()
    }


class JoinedRecords(Records):
    """Records of several corpora, one after the other."""

    def __init__(self, parts: Sequence[Records]):
        self.parts = tuple(parts)
        self.tokens = sum(part.tokens for part in parts)
        self.text_bytes = sum(part.text_bytes for part in parts)
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        part, within = self._find(index)
        return part[within]

    def draw(self, index: int, rng: np.random.Generator) -> Record:
        part, within = self._find(index)
        return part.draw(within, rng)

    def _find(self, index: int) -> tuple[Records, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        return self.parts[part], index - (self._ends[part - 1] if part else 0)
