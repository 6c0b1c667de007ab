"""The shards of a store as one stream of tokens, read in place: a shard is mapped into memory when it is first touched.

A shard is one file: its tokens, zeros up to a multiple of eight bytes, and int64[documents], where in it each begins.
"""

import bisect
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

_OPEN = 256  # shards mapped at a time, of all stores: each costs a file descriptor


class Shard(NamedTuple):
    file: str
    """Its name in the store's folder."""
    documents: int
    tokens: int
    text_bytes: int
    digest: str
    """A hash of the file."""


class Mapping(NamedTuple):
    """A shard in memory."""

    tokens: np.ndarray
    starts: np.ndarray


def padded(size: int) -> int:
    """Returns where the documents' starts begin in a shard with so many bytes of tokens."""
    return -(-size // 8) * 8


def shard_size(shard: Shard, dtype: str) -> int:
    """Returns the bytes of a shard's file."""
    return padded(shard.tokens * np.dtype(dtype).itemsize) + 8 * shard.documents


class Shards:
    """A folder of shards, each with a document at least."""

    def __init__(self, folder: Path, shards: Sequence[Shard], dtype: str):
        self._folder, self._shards, self.dtype = folder, shards, np.dtype(dtype)
        self.tokens = np.cumsum([0, *(shard.tokens for shard in shards)])
        """int64[shards + 1]: the token of the whole stream that each begins with, and the end."""
        self.documents = np.cumsum([0, *(shard.documents for shard in shards)])
        """int64[shards + 1]: the same for documents."""
        self.text = self.tokens - 2 * self.documents
        """int64[shards + 1]: the same for tokens of text alone, without the begin and the end of each document."""

    def map(self, number: int) -> Mapping:
        """Shard `number` in memory."""
        shard = self._shards[number]
        size = shard.tokens * self.dtype.itemsize
        whole = shard_size(shard, self.dtype.name)
        # As a plain array: the subclass costs a microsecond a slice.
        content = np.asarray(np.memmap(self._folder / shard.file, np.uint8, "r", shape=(whole,)))
        return Mapping(content[:size].view(self.dtype), content[padded(size) :].view(np.int64))


@functools.lru_cache(_OPEN)
def _mapped(shards: Shards, number: int) -> Mapping:
    """Returns a shard in memory, kept while it is one of the last few that were touched."""
    return shards.map(number)


class _Joined:
    """A read-only array of one dimension that lies in pieces, and reads like one in memory.

    Args:
      bounds: int64[pieces + 1], where each piece begins.
    """

    def __init__(self, bounds: np.ndarray, dtype: np.dtype):
        self._bounds, self.dtype, self.ndim = bounds, dtype, 1
        self.shape = (int(bounds[-1]),)

    def _read(self, piece: int, places: slice | np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        del copy
        return self[:].astype(dtype or self.dtype, copy=False)

    def __getitem__(self, places):
        """Elements by a number, a slice without a step, or an array of numbers."""
        if isinstance(places, slice):
            start, stop, step = places.indices(len(self))
            if step != 1:
                raise IndexError("slices have no step")
            return self._range(start, max(start, stop))
        numbers = np.asarray(places)
        if numbers.ndim == 0:
            number = int(numbers) + (len(self) if numbers < 0 else 0)
            if not 0 <= number < len(self):
                raise IndexError(int(numbers))
            return self._range(number, number + 1)[0]
        return self._gather(numbers)

    def _piece(self, place: int) -> int:
        return int(np.searchsorted(self._bounds, place, side="right")) - 1

    def _range(self, start: int, stop: int) -> np.ndarray:
        pieces = []
        while start < stop:
            piece = self._piece(start)
            begin, end = int(self._bounds[piece]), min(stop, int(self._bounds[piece + 1]))
            pieces.append(self._read(piece, slice(start - begin, end - begin)))
            start = end
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate([np.empty(0, self.dtype), *pieces])

    def _gather(self, numbers: np.ndarray) -> np.ndarray:
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError("out of range")
        elements = np.empty(numbers.shape, self.dtype)
        pieces = np.searchsorted(self._bounds, numbers, side="right") - 1
        for piece in np.unique(pieces).tolist():
            mask = pieces == piece
            elements[mask] = self._read(piece, numbers[mask] - self._bounds[piece])
        return elements


def text_document(starts: np.ndarray, place: int) -> int:
    """Returns the document that holds token `place` of the text alone, without the begin and the end of each document.

    Args:
      starts: where each document starts in the stream: two tokens later for each document before it.
    """
    return bisect.bisect_right(range(len(starts)), place, key=lambda i: starts.item(i) - 2 * i) - 1


class Tokens(_Joined):
    """The tokens of all shards."""

    def __init__(self, shards: Shards):
        super().__init__(shards.tokens, shards.dtype)
        self._shards = shards

    def _read(self, piece: int, places: slice | np.ndarray) -> np.ndarray:
        return _mapped(self._shards, piece).tokens[places]


class Offsets(_Joined):
    """int64[documents + 1]: the token that each document begins with, and the end."""

    def __init__(self, shards: Shards):
        documents = shards.documents
        super().__init__(np.append(documents, documents[-1] + 1), np.dtype(np.int64))
        self._shards = shards

    def _read(self, piece: int, places: slice | np.ndarray) -> np.ndarray:
        if piece == len(self._shards.tokens) - 1:
            return self._shards.tokens[-1:][places]
        return np.asarray(_mapped(self._shards, piece).starts[places]) + self._shards.tokens[piece]

    def searchsorted(self, value: int, side: Literal["left", "right"] = "left", sorter: None = None) -> int:
        """As NumPy's: the first place whose element is at least `value`, or with side "right" above it."""
        del sorter
        shards = self._shards
        total = int(shards.tokens[-1])
        if value > total or (value == total and side == "right"):
            return len(self)
        first = shards.tokens[:-1]  # each shard begins with a document
        piece = int(np.searchsorted(first, value, side=side)) - 1
        if piece < 0:
            return 0
        within = np.searchsorted(_mapped(shards, piece).starts, np.int64(value - first[piece]), side=side)
        return int(shards.documents[piece] + within)

    def text_document(self, place: int) -> int:
        """Returns the document that holds token `place` of the text alone."""
        before = self._shards.text
        piece = int(np.searchsorted(before[:-1], place, side="right")) - 1
        return int(self._shards.documents[piece]) + text_document(
            _mapped(self._shards, piece).starts, int(place - before[piece])
        )
