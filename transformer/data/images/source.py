"""What a source of images is: pictures by index, with their classes or captions."""

import abc
import dataclasses
from collections.abc import Sequence

import numpy as np
import xxhash

from transformer.data.splits import digest
from transformer.errors import UserError


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture of a source."""

    content: bytes | np.ndarray
    """The bytes of a file, or uint8 [H, W] or [H, W, channels]."""
    name: str
    """What people find it by."""
    label: int = 0
    """Its class."""
    caption: str = ""
    """What is said of it."""


class ImageSource(abc.ABC):
    """Random access to the pictures of a split."""

    labels: tuple[str, ...] = ()
    """Names of the classes; empty where there are captions."""
    notes: tuple[str, ...] = ()
    """What people should know of how it was read, a line each."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Picture: ...

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash of what tells its pictures from others'."""

    def captions(self) -> Sequence[str]:
        """Returns what is said of all pictures, in order."""
        raise UserError("these images have classes and no captions: choose an objective on classes, or other data")


class Part(ImageSource):
    """Some pictures of another source."""

    def __init__(self, source: ImageSource, indices: np.ndarray):
        self._source, self._indices = source, indices
        self.labels, self.notes = source.labels, source.notes

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Picture:
        return self._source[int(self._indices[index])]

    @property
    def fingerprint(self) -> str:
        return digest([self._source.fingerprint, xxhash.xxh3_128_hexdigest(self._indices.astype(np.int64).tobytes())])

    def captions(self) -> Sequence[str]:
        captions = list(self._source.captions())
        return [captions[index] for index in self._indices.tolist()]
