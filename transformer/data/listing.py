"""Listings: which files a corpus has, with a class or a text each, kept by `tools/prepare.py` so that starts list none.

A listing that is kept is mapped, not read, while the folders (or the file of rows) that it was made of have not changed
since: a file that comes, goes or is renamed changes its folder. One that is rewritten in its place does not.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from transformer.atomic import exclusive, fill_folder
from transformer.data.listed import listed
from transformer.data.source import Item, Source
from transformer.data.splits import digest, encoded, key_hashes
from transformer.errors import UserError

_VERSION = "1"
_SETTLED = 2.0
"""Seconds: clocks of file systems are coarse, so what changed this recently may change again unnoticed."""
_TRIES = 3


class Strings(Sequence[str]):
    """Strings in two arrays, which may be mapped."""

    def __init__(self, content: np.ndarray, ends: np.ndarray):
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, strings: Sequence[str]) -> Self:
        """Returns strings as arrays."""
        contents = [encoded(string) for string in strings]
        ends = np.cumsum([len(content) for content in contents], dtype=np.int64)
        return cls(np.frombuffer(b"".join(contents), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start = int(self.ends[place - 1]) if place else 0
        return self.content[start : int(self.ends[place])].tobytes().decode(errors="surrogateescape")


@dataclasses.dataclass(frozen=True)
class Listing:
    """Files by index. One that is kept goes to other processes by its path."""

    names: Sequence[str]
    """Their paths below the corpus' folder."""
    values: Any
    """int32[n], the class of each, or a sequence of texts."""
    hashes: np.ndarray
    """uint64[n], of the names."""
    fingerprint: str
    place: Path | None = None
    """The folder that keeps it."""

    @classmethod
    def of(cls, names: Sequence[str], values: Any, fingerprint: str) -> Self:
        """Returns a listing of what was found just now."""
        return cls(names, values, key_hashes(names), fingerprint)

    @classmethod
    def open(cls, place: Path) -> Self:
        """Returns a listing that is kept; an error of reading where it is not there or damaged."""

        def mapped(name: str) -> np.ndarray:
            return np.load(place / f"{name}.npy", mmap_mode="r")

        def strings(name: str) -> Strings:
            ends = mapped(f"{name}-ends")
            # Nothing cannot be mapped.
            return Strings(mapped(name) if len(ends) and ends[-1] else np.zeros(0, np.uint8), ends)

        record = json.loads((place / "listing.json").read_text())
        values = strings("texts") if record["has_texts"] else mapped("classes")
        return cls(strings("names"), values, mapped("hashes"), record["fingerprint"], place)

    def write(self, place: Path, stamps: list[Any]) -> None:
        """Writes it into a folder, which `open` returns it from."""
        has_texts = not isinstance(self.values, np.ndarray)
        for name, values in (("names", self.names), ("texts", self.values)) if has_texts else (("names", self.names),):
            strings = Strings.of(values)
            np.save(place / f"{name}.npy", strings.content)
            np.save(place / f"{name}-ends.npy", strings.ends)
        if not has_texts:
            np.save(place / "classes.npy", self.values)
        np.save(place / "hashes.npy", self.hashes)
        record = {"fingerprint": self.fingerprint, "has_texts": has_texts, "stamps": stamps}
        (place / "listing.json").write_text(json.dumps(record))

    def __reduce__(self) -> Any:
        if self.place is not None:
            return Listing.open, (self.place,)
        return Listing, (self.names, self.values, self.hashes, self.fingerprint)


Read = Callable[[], tuple[Listing, Iterable[str]]]
"""Lists a corpus; also returns the folders and files whose change would make it another."""


class Listings:
    """The listings that a cache keeps."""

    def __init__(self, cache_dir: str | Path, *, writes: bool = False):
        """Listings below a cache.

        Args:
          cache_dir: the cache.
          writes: whether all corpora are listed anew, and what is found is kept.
        """
        self._folder, self._writes = Path(cache_dir).expanduser() / "listings", writes
        self.written = 0
        """How many were."""

    def get(self, key: Sequence[str], read: Read) -> Listing:
        """Returns the listing of a corpus: the one that is kept, if it is current and none is to be written.

        Args:
          key: what tells the corpus from others.
          read: lists it.
        """
        if self._writes:
            return self._write(key, read)
        return self.kept(key) or read()[0]

    def kept(self, key: Sequence[str]) -> Listing | None:
        """Returns the listing that is kept of a corpus; None where it is not current, or is to be written."""
        if self._writes:
            return None
        place = self._place(key)
        try:
            stamps = json.loads((place / "listing.json").read_text())["stamps"]
            return Listing.open(place) if stamps == _stamps([path for path, *_ in stamps]) else None
        except (OSError, EOFError, ValueError, KeyError):
            return None

    def _place(self, key: Sequence[str]) -> Path:
        return self._folder / digest([_VERSION, *key])

    def _write(self, key: Sequence[str], read: Read) -> Listing:
        place = self._place(key)
        with exclusive(place.with_name(f".{place.name}.lock")):
            for _ in range(_TRIES):
                begun = time.time()
                listing, watched = read()
                stamps = _stamps(watched)
                settled = max(changed for *_, changed in stamps) / 1e9 + _SETTLED
                if settled < begun:
                    fill_folder(place, lambda folder: listing.write(folder, stamps))  # noqa: B023 - called at once
                    self.written += 1
                    return Listing.open(place)
                time.sleep(min(max(settled - time.time(), 0), _SETTLED) + 0.1)
        raise UserError(f"{stamps[0][0]} changes while it is listed: run again once it is whole")


def _stamps(paths: Iterable[str]) -> list[list[Any]]:
    """Returns [path, size, time of change in ns] of each."""
    stats = [(path, os.stat(path)) for path in paths]
    return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]


class ListedSource(Source[Item]):
    """The files of a listing, in its order."""

    def __init__(self, folder: Path, listing: Listing):
        """Files below a folder; none is opened."""
        self.folder, self.listing = folder, listing

    def __len__(self) -> int:
        return len(self.listing.names)

    def path(self, index: int) -> Path:
        """Returns the path of a file."""
        return self.folder / self.listing.names[index]

    @property
    def hashes(self) -> np.ndarray:
        """Hashes of the files' paths below the folder: rows of one file have one."""
        return self.listing.hashes

    @property
    def fingerprint(self) -> str:
        """A hash of what is listed and of the files' sizes: contents are not read for it."""
        return self.listing.fingerprint


def of_rows(path: Path, file: tuple[str, ...], text: tuple[str, ...], what: str) -> Read:
    """Returns what lists the files that a .tsv or .jsonl file names, and looks whether each is there.

    Args:
      path: the file of rows; the paths in it are from its folder.
      file: as for `listed`.
      text: likewise.
      what: what people call a file that it names.
    """

    def read() -> tuple[Listing, list[str]]:
        names, texts, content = [], [], []
        for number, name, said in listed(path, file, text):
            named = path.parent / name
            if not named.is_file():
                raise UserError(f"{path}, line {number}: {named} is no file: put the {what} there or mend its path")
            names.append(name)
            texts.append(said)
            content.append(f"{name}\t{said}\t{named.stat().st_size}")
        if not names:
            raise UserError(f"{path} has no rows")
        return Listing.of(names, texts, digest(content)), [os.path.abspath(path)]

    return read
