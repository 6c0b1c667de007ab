"""Images in containers: Parquet, WebDataset's tar shards, MNIST's idx files, TFDS; read by index, none unpacked."""

import bisect
import functools
import gzip
import itertools
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.images.folders import ENDINGS
from transformer.data.images.source import ImageSource, Picture
from transformer.data.splits import digest
from transformer.errors import UserError

_GROUPS = 4
"""Row groups of Parquet that are kept in memory."""


def _sizes(paths: Sequence[Path]) -> list[str]:
    """Returns what tells files from others without reading them."""
    return [f"{path.name} {path.stat().st_size}" for path in paths]


def _class_names(names: set[Any]) -> tuple[str, ...]:
    """Returns the names of classes in order, those that are numbers by their size."""
    numbers = sorted(name for name in names if isinstance(name, int))
    return tuple(map(str, [*numbers, *sorted(str(name) for name in names if not isinstance(name, int))]))


class Parquet(ImageSource):
    """Files with a column `image` (bytes, or a struct with `bytes`, as the Hub has them) and `label` or `caption`."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[str] | None = None):
        """Reads the columns beside the images.

        Raises:
          UserError: a file that is no Parquet, or lacks a column.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._paths = list(paths)
        values: list[Any] = []
        self._places: list[tuple[int, int]] = []
        self._ends: list[int] = []
        self._column = ""
        for number, path in enumerate(self._paths):
            try:
                file = pq.ParquetFile(path)
            except (pa.ArrowException, OSError) as error:
                raise UserError(f"{path}: not a Parquet file: {error}") from error
            columns = [name for name in ("label", "caption", "text") if name in file.schema_arrow.names]
            if "image" not in file.schema_arrow.names or not columns:
                raise UserError(f"{path}: it needs the columns image, and label or caption")
            self._column = columns[0]
            values += file.read([self._column]).column(0).to_pylist()
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                self._places.append((number, group))
                self._ends.append((self._ends[-1] if self._ends else 0) + rows)
        self._values, self._groups = values, functools.lru_cache(_GROUPS)(self._group)
        self._captions = [] if self._column == "label" else [value or "" for value in values]
        if self._column == "label":
            self.labels = tuple(labels) if labels is not None else _class_names({*values})
            self._values = [_class_of(value, self.labels, str(self._paths[0])) for value in values]

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Picture:
        place = bisect.bisect_right(self._ends, index)
        row = index - (self._ends[place - 1] if place else 0)
        number, _ = self._places[place]
        image = self._groups(place)[row].as_py()
        content = image.get("bytes") if isinstance(image, dict) else image
        name = f"{self._paths[number]}, row {index}"
        if not isinstance(content, bytes):
            raise UserError(f"{name}: the column image holds no bytes of a picture")
        if self.labels:
            return Picture(content, name, label=self._values[index])
        return Picture(content, name, caption=self._captions[index])

    def _group(self, place: int) -> Any:
        import pyarrow.parquet as pq

        number, group = self._places[place]
        return pq.ParquetFile(self._paths[number]).read_row_group(group, ["image"]).column(0).combine_chunks()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_groups"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._groups = functools.lru_cache(_GROUPS)(self._group)

    @property
    def keys(self) -> list[str]:
        """The rows' numbers."""
        return [str(index) for index in range(len(self))]

    @property
    def fingerprint(self) -> str:
        return digest([*_sizes(self._paths), *self.labels, *map(str, self._values)])

    def captions(self) -> Sequence[str]:
        return super().captions() if self.labels else self._captions


class WebDataset(ImageSource):
    """.tar shards whose members KEY.jpg, KEY.cls (a class), KEY.txt (a caption) or KEY.json (either) are a sample."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[str] | None = None):
        """Reads the shards' lists of members, and the classes and captions.

        Raises:
          UserError: a file that is no tar, or a picture without a class and a caption.
        """
        self._paths = list(paths)
        self._samples: list[tuple[int, int, int, str]] = []
        said: list[tuple[Any, str]] = []
        for number, path in enumerate(self._paths):
            try:
                with tarfile.open(path, "r:") as shard:
                    members = [member for member in shard if member.isfile()]
            except (tarfile.TarError, OSError) as error:
                raise UserError(f"{path}: not a whole .tar file: {error}") from error
            for _, group in itertools.groupby(members, lambda member: _key(member.name)):
                parts = {_ending(member.name): member for member in group}
                picture = next((parts[end] for end in parts if f".{end}".lower() in ENDINGS), None)
                if picture is None:
                    continue
                where = f"{path}: {picture.name}"
                self._samples.append((number, picture.offset_data, picture.size, where))
                said.append(_said(path, parts, where))
        if not said:
            raise UserError(f"{self._paths[0]}: it holds no images ({', '.join(ENDINGS)})")
        classes = [label for label, _ in said]
        self._captions = [caption for _, caption in said]
        if None not in classes:
            self.labels = tuple(labels) if labels is not None else _class_names({*classes})
            self._labels = [_class_of(label, self.labels, str(self._paths[0])) for label in classes]
        elif any(label is not None for label in classes):
            raise UserError(f"{self._paths[0]}: some of its images have a class (.cls) and others have none")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Picture:
        number, offset, size, name = self._samples[index]
        with self._paths[number].open("rb") as file:
            content = os.pread(file.fileno(), size, offset)
        label = self._labels[index] if self.labels else 0
        return Picture(content, name, label, "" if self.labels else self._captions[index])

    @property
    def keys(self) -> list[str]:
        """The pictures' names."""
        return [name.partition(": ")[2] for *_, name in self._samples]

    @property
    def fingerprint(self) -> str:
        said = map(str, self._labels) if self.labels else self._captions
        return digest([*_sizes(self._paths), *self.labels, *self.keys, *said])

    def captions(self) -> Sequence[str]:
        return super().captions() if self.labels else self._captions


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _ending(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[2].lower()


def _said(path: Path, parts: dict[str, tarfile.TarInfo], where: str) -> tuple[Any, str]:
    """Returns the class, or None, and the caption of a sample."""

    def text(ending: str) -> str:
        with path.open("rb") as file:
            content = os.pread(file.fileno(), parts[ending].size, parts[ending].offset_data)
        try:
            return content.decode().strip()
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: its .{ending} is not UTF-8 text") from error

    if "cls" in parts:
        label = text("cls")
        return int(label) if label.isdigit() else label, ""
    if "txt" in parts:
        return None, text("txt")
    if "json" in parts:
        try:
            row = json.loads(text("json"))
        except ValueError as error:
            raise UserError(f"{where}: its .json is damaged ({error})") from error
        if isinstance(row, dict) and "label" in row:
            return row["label"], ""
        if isinstance(row, dict) and isinstance(row.get("caption"), str):
            return None, row["caption"]
    raise UserError(
        f"{where}: it has neither a class (.cls, or label in .json) nor a caption (.txt, or caption in .json)"
    )


def _class_of(value: Any, labels: tuple[str, ...], where: str) -> int:
    """Returns the number of a class; raises UserError for one that the training images do not have."""
    if str(value) not in labels:
        raise UserError(f"{where}: the class {value!r} is none of the training images' {len(labels)}")
    return labels.index(str(value))


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

    @property
    def keys(self) -> list[str]:
        """The images' numbers."""
        return [str(index) for index in range(len(self))]

    @functools.cached_property
    def fingerprint(self) -> str:
        import xxhash

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
    def keys(self) -> list[str]:
        """The images' numbers."""
        return [str(index) for index in range(len(self))]

    @property
    def fingerprint(self) -> str:
        return digest([self._content, str(len(self)), *self.labels])
