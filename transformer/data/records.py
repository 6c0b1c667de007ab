"""Records: what an objective makes an example of, by index."""

import abc
import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer.errors import UserError

Record = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reading:
    """Which records an objective reads of a dataset. Each kind of data has its own; this one leaves no choice."""

    def padding(self, input_size: tuple[int, ...]) -> Record:
        """Returns a record that is all padding: its arrays have the shapes and dtypes of every other's.

        Args:
          input_size: of the arrays that the model reads beside tokens, or in their place (`Architecture.input_size`).

        Raises:
          UserError: these shapes follow from the data alone.
        """
        raise UserError("the shapes of these records are not known before the data are read")


class Records(abc.ABC):
    """Random access to the records of a split of a dataset."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Record: ...

    def draw(self, index: int, rng: np.random.Generator) -> Record:
        """Returns record `index` with what else an example needs that is chosen at random."""
        del rng
        return self[index]

    def draw_many(self, indices: np.ndarray, rngs: Sequence[np.random.Generator]) -> Record:
        """Returns the records at `indices`, each drawn with its own generator, stacked on a first axis."""
        return stack([self.draw(index, rng) for index, rng in zip(indices.tolist(), rngs, strict=True)])


class LengthRecords(Records):
    """Records whose lengths are known before they are read, so that those of like lengths can share a batch."""

    lengths: np.ndarray
    """int64 [records]: tokens of each."""


def stack(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns dicts of arrays, nested alike, as one whose arrays have a first axis more."""
    return {
        name: stack([item[name] for item in items])
        if isinstance(value, dict)
        else np.stack([item[name] for item in items])
        for name, value in items[0].items()
    }


class JoinedRecords(Records):
    """Records of several sources, one after the other."""

    def __init__(self, parts: Sequence[Records]):
        self.parts = tuple(parts)
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
