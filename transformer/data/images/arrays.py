"""Images that are arrays already: MNIST's idx files, and TFDS; read by index."""

import functools
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from transformer.data.images.source import ImageSource, Picture
from transformer.data.splits import digest
from transformer.errors import UserError


class IdxFiles(ImageSource):
    """Images and classes in the two files of MNIST's format (LeCun's page; gzip or not), held in memory."""

    def __init__(self, images: Path, labels: Path, names: Sequence[str] | None = None):
        """Reads both files; raises UserError where they are damaged or do not belong together."""
        self._images, self._labels = _idx(images, 3), _idx(labels, 1)
        if len(self._images) != len(self._labels):
            raise UserError(f"{images}: {len(self._images)} images, and {labels} has {len(self._labels)} classes")
        self._path = images
        self.labels = tuple(map(str, range(int(self._labels.max()) + 1))) if names is None else tuple(names)
        if int(self._labels.max()) >= len(self.labels):
            raise UserError(f"{labels}: the class {self._labels.max()} is none of the training images'")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Picture:
        return Picture(self._images[index], f"{self._path}, image {index}", int(self._labels[index]))

    @functools.cached_property
    def fingerprint(self) -> str:
        return digest([xxhash.xxh3_128_hexdigest(array.tobytes()) for array in (self._images, self._labels)])


def idx_pair(folder: Path, beginning: str) -> tuple[Path, Path] | None:
    """Returns a split's two files in a folder, as MNIST names them; None where they are not there."""
    found = []
    for middle in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        names = [f"{beginning}-{middle}", f"{beginning}-{middle.replace('-idx', '.idx')}"]
        paths = [folder / f"{name}{end}" for name in names for end in ("", ".gz")]
        found.append(next((path for path in paths if path.exists()), None))
    images, labels = found
    return None if images is None or labels is None else (images, labels)


def _idx(path: Path, axes: int) -> np.ndarray:
    """Returns the uint8 array of an idx file."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    shape = tuple(np.frombuffer(content[4 : 4 + 4 * axes], ">u4").tolist())
    if content[:4] != bytes([0, 0, 8, axes]) or len(shape) != axes or len(content) != 4 + 4 * axes + np.prod(shape):
        raise UserError(f"{path}: not an idx file of {axes} axes of bytes, or not whole")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


class TfdsImages(ImageSource):
    """A split of a TFDS dataset with the features image and label, by random access."""

    def __init__(self, data: Any, name: str, labels: Sequence[str], content: str):
        """An opened split.

        Args:
          data: TFDS's data source of the split.
          name: what people call it.
          labels: names of the classes.
          content: what tells it from others.
        """
        self._data, self._name, self.labels, self._content = data, name, tuple(labels), content

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Picture:
        row = self._data[index]
        return Picture(np.asarray(row["image"]), f"{self._name}, image {index}", int(row["label"]))

    @property
    def fingerprint(self) -> str:
        return digest([self._content, str(len(self)), *self.labels])
