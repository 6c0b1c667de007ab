"""Where documents come from: text files, JSONL files, folders of either. TFDS datasets are in `tfds_source`.

A source has two splits, "train" and "validation". A single text file is one document, whose last part is validation;
other corpora are split by document, by a hash of its name or index, so that adding documents does not reshuffle the
others.
"""

import abc
import functools
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from transformer.data.config import DataConfig
from transformer.data.pieces import Piece, decode_utf8, file_pieces, join_documents, whole_document
from transformer.errors import UserError

Split = Literal["train", "validation"]


class Source(abc.ABC):
    """Documents of a corpus, read lazily."""

    name: str

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the content and of what decides the split: equal fingerprints, equal documents."""
        return self._hash()

    @abc.abstractmethod
    def _hash(self) -> str: ...

    @abc.abstractmethod
    def size(self, split: Split) -> int:
        """Roughly the bytes of a split: for progress bars and for sampling, never for results."""
        ...

    @abc.abstractmethod
    def pieces(self, split: Split) -> Iterator[Piece]:
        """The documents of a split in a fixed order, as pieces; UserError where the text cannot be read."""
        ...


def documents(source: Source, split: Split) -> Iterator[str]:
    """The documents of a split, each as one string."""
    return join_documents(source.pieces(split))


def unit_hash(key: str) -> float:
    """A number in [0, 1) that depends on `key` alone: the same on every machine and Python."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64


def choose_split(hashed: float, fraction: float, lowest: float, highest: float) -> Split:
    """Validation if the document's hash is below `fraction`; the extremes of a small corpus are forced to opposite
    sides, so that neither side is ever empty."""
    if hashed == lowest:
        return "validation"
    return "validation" if hashed < fraction and hashed != highest else "train"


def hash_file(path: Path, digest) -> None:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)


class TextFile(Source):
    """One plain text file: one document, whose last `validation_fraction`, cut at a line, is validation."""

    def __init__(self, path: Path, validation_fraction: float):
        self.name = str(path)
        self._path, self._fraction = path, validation_fraction
        self._bytes = path.stat().st_size
        self._cut = self._find_cut()

    def _find_cut(self) -> int:
        target = min(int(self._bytes * (1 - self._fraction)), self._bytes - 1)
        with self._path.open("rb") as file:
            file.seek(target)
            cut = target + len(file.readline())
            if cut >= self._bytes:  # the file's last line: cut inside it, but between characters
                file.seek(target)
                ahead = file.read(4)
                cut = target + next((i for i, byte in enumerate(ahead) if byte & 0xC0 != 0x80), len(ahead))
        if not 0 < cut < self._bytes:
            raise UserError(
                f"{self._path} ({self._bytes} bytes) is too small to split into training and validation text."
            )
        return cut

    def _range(self, split: Split) -> tuple[int, int]:
        return (0, self._cut) if split == "train" else (self._cut, self._bytes)

    def _hash(self) -> str:
        digest = hashlib.blake2b(f"text-file {self._cut}\n".encode(), digest_size=20)
        hash_file(self._path, digest)
        return digest.hexdigest()

    def size(self, split: Split) -> int:
        start, stop = self._range(split)
        return stop - start

    def pieces(self, split: Split) -> Iterator[Piece]:
        yield from file_pieces(self._path, *self._range(split))


class FileCollection(Source):
    """Text and JSONL files under a root: a document a text file, a document a JSONL line; split by document."""

    def __init__(self, root: Path, files: list[Path], validation_fraction: float, text_field: str):
        self.name = str(root)
        self._root, self._files = root, files
        self._fraction, self._field = validation_fraction, text_field
        hashes = sorted({unit_hash(key) for key in self._keys()})
        if len(hashes) < 2:
            raise UserError(
                f"{root} holds {len(hashes)} document(s): two are needed, one to train on and one to validate."
            )
        self._lowest, self._highest = hashes[0], hashes[-1]

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix() if path != self._root else ""

    def _keys(self) -> Iterator[str]:
        for path in self._files:
            if not is_jsonl(path):
                yield self._relative(path)
                continue
            with path.open("rb") as file:
                yield from (f"{self._relative(path)}:{i}" for i, line in enumerate(file) if line.strip())

    def _split(self, key: str) -> Split:
        return choose_split(unit_hash(key), self._fraction, self._lowest, self._highest)

    def _hash(self) -> str:
        digest = hashlib.blake2b(digest_size=20)
        digest.update(json.dumps(["files", self._fraction, self._field]).encode())
        for path in self._files:
            digest.update(json.dumps([self._relative(path), path.stat().st_size]).encode())
            hash_file(path, digest)
        return digest.hexdigest()

    def size(self, split: Split) -> int:
        total = sum(path.stat().st_size for path in self._files)
        return int(total * (self._fraction if split == "validation" else 1 - self._fraction))

    def pieces(self, split: Split) -> Iterator[Piece]:
        for path in self._files:
            name = self._relative(path)
            if is_jsonl(path):
                for text in self._lines(path, name, split):
                    yield from whole_document(text)
            elif self._split(name) == split:
                yield from file_pieces(path, 0, path.stat().st_size)

    def _lines(self, path: Path, name: str, split: Split) -> Iterator[str]:
        offset = 0
        with path.open("rb") as file:
            for index, line in enumerate(file):
                if line.strip() and self._split(f"{name}:{index}") == split:
                    yield jsonl_text(decode_utf8(line, path, offset), f"{path}:{index + 1}", self._field)
                offset += len(line)


def is_jsonl(path: Path) -> bool:
    return path.suffix.lower() in (".jsonl", ".ndjson")


def jsonl_text(line: str, where: str, field: str, flag: str = "--data.text-field") -> str:
    """The text of a field of a line; UserError says `where` it has none, and the flag that names the field."""
    try:
        record = json.loads(line.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not JSON ({error.msg} at column {error.colno}). A .jsonl file has one object a line."
        ) from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: a {type(record).__name__}, not an object. A .jsonl file has one JSON object a line.")
    if field not in record:
        fields = ", ".join(sorted(record)) or "none"
        raise UserError(f"{where}: no field {field!r}; its fields are: {fields}. Name one with {flag}.")
    if not isinstance(record[field], str):
        raise UserError(f"{where}: field {field!r} is a {type(record[field]).__name__}, not a string. Set {flag}.")
    # A lone surrogate is legal in JSON ("\ud800") but is no text: it has no UTF-8.
    return record[field].encode("utf-8", "replace").decode("utf-8")


def open_path(path: str, config: DataConfig) -> Source:
    """The source at `path`: a text file, a .jsonl file or a folder; UserError if there is none or it is empty."""
    root = Path(path).expanduser()
    if not root.exists():
        raise UserError(
            f"{root}: no such file or folder. Set --data.path to a text file, a .jsonl file or a folder of them."
        )
    if root.is_dir():
        found = sorted(p for p in root.rglob("*") if p.is_file() and not _hidden(p.relative_to(root)))
        if not found:
            raise UserError(
                f"{root} holds no text files. Put .txt or .jsonl files there, or set --data.path to another folder."
            )
        files = [p for p in found if p.stat().st_size > 0]
        if not files:
            raise UserError(f"{root}: its {len(found)} file(s) are all empty.")
    else:
        files = [root]
        if root.stat().st_size == 0:
            raise UserError(f"{root} is empty.")
    for file in files:
        if not os.access(file, os.R_OK):
            raise UserError(f"{file} cannot be read: permission denied.")
    if len(files) == 1 and not is_jsonl(files[0]):
        return TextFile(files[0], config.validation_fraction)
    return FileCollection(root, files, config.validation_fraction, config.text_field)


def _hidden(relative: Path) -> bool:
    return any(part.startswith(".") for part in relative.parts)
