"""What a source of images or sounds is: items by index, with classes or texts; and the parts of one that are splits."""

import abc
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
import xxhash

from transformer.data.splits import digest, held_out, key_hashes
from transformer.errors import UserError

Item = TypeVar("Item")


class Source(abc.ABC, Generic[Item]):
    """Random access to the samples of a split."""

    labels: tuple[str, ...] = ()
    """Names of the classes; empty where there are texts."""
    notes: tuple[str, ...] = ()
    """What people should know of how it was read, a line each."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Item: ...

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash of what tells its samples from others'."""

    @property
    def hashes(self) -> np.ndarray:
        """uint64[n], which decide what is held out: samples that belong together have one. By default of the index."""
        return key_hashes(map(str, range(len(self))))

    @abc.abstractmethod
    def texts(self) -> Sequence[str]:
        """Returns what is said of, or in, all samples, in order; UserError where they have none."""


class Part(Source[Item]):
    """Some samples of another source."""

    def __init__(self, source: Source[Item], indices: np.ndarray):
        self._source, self._indices = source, indices
        self.labels, self.notes = source.labels, source.notes

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Item:
        return self._source[int(self._indices[index])]

    @property
    def fingerprint(self) -> str:
        return digest([self._source.fingerprint, xxhash.xxh3_128_hexdigest(self._indices.astype(np.int64).tobytes())])

    def texts(self) -> Sequence[str]:
        texts = self._source.texts()
        return [texts[int(index)] for index in self._indices]


def divided(source: Source[Item], fraction: float, what: str) -> tuple[Part[Item], Part[Item]]:
    """Returns the parts to train and to validate on of a source without a split of its own.

    Args:
      source: samples of one hash are in the same part.
      fraction: the share of the second.
      what: what people call many samples.

    Raises:
      UserError: one of them is empty.
    """
    held = held_out(source.hashes, fraction)
    if not held.any() or held.all():
        raise UserError(
            f"{len(source)} {what}, and --data.validation-fraction {fraction:g} of them leave none to train on or none "
            f"to validate on: give more {what}, or another fraction"
        )
    return Part(source, np.flatnonzero(~held)), Part(source, np.flatnonzero(held))
