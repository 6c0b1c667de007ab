"""Pairs in files: parallel text files in a folder, a .tsv file, a .jsonl file; each may be compressed with gzip."""

import gzip
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from transformer.data.config import DataConfig
from transformer.data.pairs import PairSource, check_fields
from transformer.data.pieces import decode_utf8
from transformer.data.sources import Split, choose_split, hash_file, is_jsonl, jsonl_text, unit_hash
from transformer.errors import UserError

_TRAIN, _VALIDATION = ("train",), ("val", "valid", "validation", "dev")


class _HashSplit:
    """Which side of the split a pair is on, by a hash of its number, where the corpus has no validation part."""

    def __init__(self, count: int, fraction: float, name: str):
        if count < 2:
            raise UserError(f"{name} holds {count} pair(s): two are needed, one to train on and one to validate.")
        hashes = [unit_hash(str(i)) for i in range(count)]
        self._lowest, self._highest, self._fraction = min(hashes), max(hashes), fraction

    def __call__(self, number: int) -> Split:
        return choose_split(unit_hash(str(number)), self._fraction, self._lowest, self._highest)


class ParallelFiles(PairSource):
    """{train,val}.{xx,yy}, a pair a line: line i of one file belongs to line i of the other."""

    def __init__(self, root: Path, fields: tuple[str, str], validation_fraction: float):
        self.name, self.fields, self._fraction = str(root), fields, validation_fraction
        train, validation = (self._find(root, names) for names in (_TRAIN, _VALIDATION))
        if train is None:
            wanted = " and ".join(f"train.{field}" for field in fields)
            raise UserError(f"{root} has no {wanted} (or .gz): put them there, or name others with --data.fields.")
        self._files: dict[str, tuple[Path, Path]] = {"train": train, "validation": validation or train}
        self._carved = None
        if validation is None:
            count = sum(1 for _ in self._lines(train))
            self._carved = _HashSplit(count, validation_fraction, self.name)

    def _find(self, root: Path, names: tuple[str, ...]) -> tuple[Path, Path] | None:
        """The two files of the first of `names` that has any; None if none has."""
        for name in names:
            found = [_existing(root, f"{name}.{field}") for field in self.fields]
            if found[0] is not None and found[1] is not None:
                return found[0], found[1]
            for path, field in zip(found, reversed(self.fields), strict=True):
                if path is not None:
                    raise UserError(f"{path} has no counterpart: {root / name}.{field} (or .gz) is missing.")
        return None

    def _hash(self) -> str:
        digest = hashlib.blake2b(digest_size=20)
        digest.update(json.dumps(["parallel", self.fields, self._fraction if self._carved else None]).encode())
        for split in ("train", "validation"):
            for path in self._files[split]:
                digest.update(f"{path.stat().st_size}\n".encode())
                hash_file(path, digest)
        return digest.hexdigest()

    def size(self, split: Split) -> int:
        share = 1.0
        if self._carved:
            share = self._fraction if split == "validation" else 1 - self._fraction
        return int(share * sum(_text_bytes(path) for path in self._files[split]))

    def pairs(self, split: Split) -> Iterator[tuple[str, str]]:
        for number, (source, target) in enumerate(self._lines(self._files[split])):
            if source.strip() and target.strip() and (self._carved is None or self._carved(number) == split):
                yield source, target

    def _lines(self, files: tuple[Path, Path]) -> Iterator[tuple[str, str]]:
        for source, target in itertools.zip_longest(text_lines(files[0]), text_lines(files[1])):
            if source is None or target is None:
                counts = " and ".join(f"{path} {sum(1 for _ in text_lines(path))}" for path in files)
                raise UserError(f"Parallel files have as many lines; here have {counts}.")
            yield source, target


class PairLines(PairSource):
    """A file with a pair a line: two columns of a .tsv file, or two fields of a .jsonl file."""

    def __init__(self, path: Path, config: DataConfig):
        self.name, self._path, self._fraction = str(path), path, config.validation_fraction
        self._jsonl = is_jsonl(_without_gz(path))
        self.fields = check_fields(config) if self._jsonl else (config.fields or ("source", "target"))
        count = sum(1 for _ in self._all())
        self._split = _HashSplit(count, config.validation_fraction, self.name)

    def _hash(self) -> str:
        fields = self.fields if self._jsonl else None
        digest = hashlib.blake2b(json.dumps(["pairs", self._fraction, fields]).encode(), digest_size=20)
        hash_file(self._path, digest)
        return digest.hexdigest()

    def size(self, split: Split) -> int:
        share = self._fraction if split == "validation" else 1 - self._fraction
        return int(share * _text_bytes(self._path))

    def pairs(self, split: Split) -> Iterator[tuple[str, str]]:
        return (pair for number, pair in enumerate(self._all()) if self._split(number) == split)

    def _all(self) -> Iterator[tuple[str, str]]:
        for number, line in enumerate(text_lines(self._path), start=1):
            if line.strip():
                source, target = self._parse(line, f"{self._path}:{number}")
                if source.strip() and target.strip():
                    yield source, target

    def _parse(self, line: str, where: str) -> tuple[str, str]:
        if self._jsonl:
            source, target = (jsonl_text(line, where, field, "--data.fields") for field in self.fields)
            return source, target
        columns = line.split("\t")
        if len(columns) < 2:
            raise UserError(f"{where}: one column. A .tsv file has a source, a tab and a target a line.")
        return columns[0], columns[1]


def open_pair_path(path: str, config: DataConfig) -> PairSource:
    """The pairs at `path`: a folder of parallel files, a .tsv or a .jsonl file; UserError if there are none."""
    root = Path(path).expanduser()
    if not root.exists():
        raise UserError(
            f"{root}: no such file or folder. Set --data.path to a folder of parallel files, .tsv or .jsonl."
        )
    if root.is_dir():
        return ParallelFiles(root, check_fields(config), config.validation_fraction)
    if _without_gz(root).suffix.lower() == ".tsv" or is_jsonl(_without_gz(root)):
        return PairLines(root, config)
    raise UserError(f"{root} holds no pairs: give a folder of parallel files, a .tsv or a .jsonl file.")


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, without their ends; UserError names what is no text, and an empty file."""
    offset = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line in file:
                yield decode_utf8(line, path, offset).rstrip("\r\n")
                offset += len(line)
    except (gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}). Copy it again.") from None
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied.") from None
    if not offset:
        raise UserError(f"{path} is empty.")


def _existing(root: Path, name: str) -> Path | None:
    return next((path for path in (root / name, root / f"{name}.gz") if path.is_file()), None)


def _without_gz(path: Path) -> Path:
    return path.with_suffix("") if path.suffix == ".gz" else path


def _text_bytes(path: Path) -> int:
    """Roughly: gzip makes a third of a text."""
    return path.stat().st_size * (3 if path.suffix == ".gz" else 1)
