"""Images in shards, files of many encoded pictures: Parquet, and WebDataset's .tar; read by index, none unpacked."""

import bisect
import contextlib
import functools
import itertools
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from transformer.data.images.folders import ENDINGS
from transformer.data.images.source import ImageSource, Picture
from transformer.data.splits import digest, key_hashes
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
          UserError: a file that is no Parquet, lacks a column, or has others than the first; a row without a value.
        """
        self._paths = list(paths)
        self._column = ""
        said: list[Any] = []
        names: tuple[str, ...] = ()
        self._places: list[tuple[int, int]] = []
        self._ends: list[int] = []
        self._starts: list[int] = []
        for number, path in enumerate(self._paths):
            with _parquet(path) as file:
                columns = [name for name in ("label", "caption", "text") if name in file.schema_arrow.names]
                if "image" not in file.schema_arrow.names or not columns:
                    raise UserError(f"{path}: it needs the columns image, and label or caption")
                self._column = self._column or columns[0]
                if self._column not in columns:
                    raise UserError(
                        f"{path}: it has the column {columns[0]}, and {self._paths[0]} has {self._column}: give files "
                        "with the same columns"
                    )
                values = file.read([self._column]).column(0).to_pylist()
                if self._column == "label":
                    own = _hub_names(file.schema_arrow.metadata)
                    names = names or own
                    said += [_named_class(value, own, f"{path}, row {row}") for row, value in enumerate(values)]
                else:
                    said += [_caption(value, f"{path}, row {row}") for row, value in enumerate(values)]
                self._starts.append(self._ends[-1] if self._ends else 0)
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    self._places.append((number, group))
                    self._ends.append((self._ends[-1] if self._ends else 0) + rows)
        if not said:
            raise UserError(f"{self._paths[0]} has no rows")
        self._groups = functools.lru_cache(_GROUPS)(self._group)
        self._values: list[Any] = said
        if self._column == "label":
            self.labels = tuple(labels) if labels is not None else names or _class_names({*said})
            numbers = _numbers(self.labels)
            self._values = [_class_of(value, numbers, self._where(index)) for index, value in enumerate(said)]

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: int) -> Picture:
        content, name, value = self._content(index), self._where(index), self._values[index]
        return Picture(content, name, label=value) if self.labels else Picture(content, name, caption=value)

    def _content(self, index: int) -> bytes:
        place = bisect.bisect_right(self._ends, index)
        row = index - (self._ends[place - 1] if place else 0)
        image = self._groups(place)[row].as_py()
        content = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(content, bytes):
            raise UserError(f"{self._where(index)}: the column image holds no bytes of a picture")
        return content

    def _where(self, index: int) -> str:
        """Returns the file and the row in it, from 0."""
        number = bisect.bisect_right(self._starts, index) - 1
        return f"{self._paths[number]}, row {index - self._starts[number]}"

    def _group(self, place: int) -> Any:
        number, group = self._places[place]
        with _parquet(self._paths[number]) as file:
            return file.read_row_group(group, ["image"]).column(0).combine_chunks()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_groups"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._groups = functools.lru_cache(_GROUPS)(self._group)

    @property
    def hashes(self) -> np.ndarray:
        """Hashes of the pictures' bytes, all of which are read for it: a picture may have several rows."""
        return key_hashes(xxhash.xxh3_128_hexdigest(self._content(index)) for index in range(len(self)))

    @property
    def fingerprint(self) -> str:
        return digest([*_sizes(self._paths), *self.labels, *map(str, self._values)])

    def texts(self) -> Sequence[str]:
        return super().texts() if self.labels else self._values


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """Opens a Parquet file; raises UserError naming it where it, or what is read of it, is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file: {' '.join(str(error).split())}") from error


def _hub_names(metadata: dict[bytes, bytes] | None) -> tuple[str, ...]:
    """Returns what the Hub's description of a file calls the numbers of its classes; empty where it has none."""
    try:
        names = json.loads((metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"]
        return tuple(map(str, names))
    except (KeyError, TypeError, ValueError):
        return ()


def _named_class(value: Any, names: tuple[str, ...], where: str) -> Any:
    """Returns a row's class, by its name where its number has one."""
    if not isinstance(value, int | str):
        what = "null" if value is None else f"no number or name of a class ({type(value).__name__})"
        raise UserError(f"{where}: its label is {what}: give it a class or remove the row")
    if not names or isinstance(value, str):
        return value
    if not 0 <= value < len(names):
        raise UserError(f"{where}: the class {value} is none of the {len(names)} that the file names")
    return names[value]


def _caption(value: Any, where: str) -> str:
    if not isinstance(value, str):
        what = "null" if value is None else f"no text ({type(value).__name__})"
        raise UserError(f"{where}: its caption is {what}: give it one or remove the row")
    return value


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
            numbers = _numbers(self.labels)
            self._labels = [_class_of(label, numbers, self._samples[i][3]) for i, label in enumerate(classes)]
        elif any(label is not None for label in classes):
            where = self._samples[classes.index(None)][3]
            raise UserError(f"{where}: some of the images have a class (.cls) and it has none")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Picture:
        number, offset, size, name = self._samples[index]
        with self._paths[number].open("rb") as file:
            content = os.pread(file.fileno(), size, offset)
        label = self._labels[index] if self.labels else 0
        return Picture(content, name, label, "" if self.labels else self._captions[index])

    @property
    def hashes(self) -> np.ndarray:
        """Hashes of the pictures' names in their shards."""
        return key_hashes(self._names())

    def _names(self) -> list[str]:
        return [name.partition(": ")[2] for *_, name in self._samples]

    @property
    def fingerprint(self) -> str:
        said = map(str, self._labels) if self.labels else self._captions
        return digest([*_sizes(self._paths), *self.labels, *self._names(), *said])

    def texts(self) -> Sequence[str]:
        return super().texts() if self.labels else self._captions


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
        return int(label) if label.isdecimal() else label, ""
    if "txt" in parts:
        return None, text("txt")
    if "json" in parts:
        try:
            row = json.loads(text("json"))
        except ValueError as error:
            raise UserError(f"{where}: its .json is damaged ({error})") from error
        if isinstance(row, dict) and isinstance(row.get("label"), int | str):
            return row["label"], ""
        if isinstance(row, dict) and isinstance(row.get("caption"), str):
            return None, row["caption"]
    raise UserError(
        f"{where}: it has neither a class (.cls, or label in .json) nor a caption (.txt, or caption in .json)"
    )


def _numbers(labels: Sequence[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(labels)}


def _class_of(value: Any, numbers: Mapping[str, int], where: str) -> int:
    """Returns the number of a class; raises UserError for one that the training images do not have."""
    number = numbers.get(str(value))
    if number is None:
        raise UserError(f"{where}: the class {value!r} is none of the training images' {len(numbers)}")
    return number
