"""Pairs in files: parallel text files in a folder, a .tsv file, a .jsonl file; each may be compressed (.gz, .zst)."""

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from transformer.data import receipts
from transformer.data.config import DataConfig
from transformer.data.jsonl import jsonl_text
from transformer.data.pair_split import HashSplit, numbered
from transformer.data.pair_table import PairTable
from transformer.data.pairs import PairSource, check_fields
from transformer.data.pieces import decode_utf8
from transformer.data.readable import Part, Split
from transformer.data.readers import COMPRESSED, is_compressed, is_jsonl, is_parquet, is_tsv, raw_lines, rough_text_size
from transformer.data.receipts import Facts, Scan, Unit
from transformer.errors import UserError

_TRAIN, _VALIDATION = ("train",), ("val", "valid", "validation", "dev")


class Lines(NamedTuple):
    """Lines of the files of a split that lie together."""

    starts: tuple[int, ...]
    """The byte where they begin, in each file."""
    stops: tuple[int, ...] | None
    """And where they end; None: with the files."""
    line: int
    """The number of the first, from 0."""
    pair: int
    """The number of the first pair among them, from 0."""


def _cut(cuts: Sequence[Sequence[int]], files: int) -> list[Lines]:
    """The lines between `cuts`, each of which is a byte a file, the number of a line, and that of a pair."""
    stops: list[tuple[int, ...] | None] = [*(tuple(cut[:files]) for cut in cuts[1:]), None]
    return [Lines(tuple(cut[:files]), stop, *cut[files:]) for cut, stop in zip(cuts, stops, strict=True)]


class ParallelFiles(PairSource):
    """{train,val}.{xx,yy}, a pair a line: line i of one file belongs to line i of the other."""

    def __init__(self, root: Path, fields: tuple[str, str], config: DataConfig):
        super().__init__(config.cache_dir)
        self.name, self.fields, self._fraction = str(root), fields, config.validation_fraction
        train, validation = (self._find(root, names) for names in (_TRAIN, _VALIDATION))
        if train is None:
            wanted = " and ".join(f"train.{field}" for field in fields)
            raise UserError(
                f"{root} has no {wanted} (or .gz, .zst): put them there, or name others with --data.fields."
            )
        self._files: dict[str, tuple[Path, Path]] = {"train": train, "validation": validation or train}
        self._is_carved = validation is None

    def _find(self, root: Path, names: tuple[str, ...]) -> tuple[Path, Path] | None:
        """The two files of the first of `names` that has any; None if none has."""
        for name in names:
            found = [_existing(root, f"{name}.{field}") for field in self.fields]
            if found[0] is not None and found[1] is not None:
                return found[0], found[1]
            for path, field in zip(found, reversed(self.fields), strict=True):
                if path is not None:
                    raise UserError(f"{path} has no counterpart: {root / name}.{field} (or .gz, .zst) is missing.")
        return None

    @property
    def _key(self) -> tuple[object, ...]:
        return (
            "parallel",
            *(os.path.abspath(path) for split in ("train", "validation") for path in self._files[split]),
        )

    def _units(self) -> list[Unit]:
        splits = ("train",) if self._is_carved else ("train", "validation")
        return [Unit(split, tuple(os.path.abspath(path) for path in self._files[split])) for split in splits]

    @property
    def _scan(self) -> Scan:
        return functools.partial(_scan_parallel, part_bytes=self._part_bytes, is_carved=self._is_carved)

    @functools.cached_property
    def _carved(self) -> HashSplit | None:
        return HashSplit(self.facts[0], self._fraction, self.name) if self._is_carved else None

    def _hash(self) -> str:
        fraction = self._fraction if self._carved else None
        return receipts.combine("parallel", self.fields, fraction, [facts["digests"] for facts in self.facts])

    def size(self, split: Split) -> int:
        share = 1.0
        if self._is_carved:
            share = self._fraction if split == "validation" else 1 - self._fraction
        return int(share * sum(rough_text_size(path) for path in self._files[split]))

    def parts(self, split: Split) -> Sequence[Part]:
        return _cut(self.facts[-1 if split == "validation" else 0]["cuts"], 2)

    def part_pairs(self, part: Part, split: Split) -> Iterator[tuple[str, str]]:
        _, _, line, _ = part
        for number, (source, target) in enumerate(_parallel(self._files[split], part), start=line):
            if source.strip() and target.strip() and (self._carved is None or self._carved(number) == split):
                yield source, target


def _parallel(files: tuple[Path, Path], part: Lines) -> Iterator[tuple[str, str]]:
    sides = [
        text_lines(path, start, stop)
        for path, start, stop in zip(files, part.starts, part.stops or (None, None), strict=True)
    ]
    for source, target in itertools.zip_longest(*sides):
        if source is None or target is None:
            raise _unequal(files)
        yield source, target


def _unequal(files: Sequence[Path]) -> UserError:
    counts = " and ".join(f"{path} {sum(1 for _ in text_lines(path))}" for path in files)
    return UserError(f"Parallel files have as many lines; here have {counts}.")


def _scan_parallel(unit: Unit, *, part_bytes: int, is_carved: bool) -> Facts:
    """Finds the hashes of two parallel files, and where they can be cut; if they are to be split, their pairs too."""
    files = [Path(file) for file in unit.files]
    digests = [receipts.hash_file(file) for file in files]
    can_seek = not any(map(is_compressed, files))
    cuts, ends, count = [[0, 0, 0, 0]], [0, 0], 0
    for lines in itertools.zip_longest(*map(_raw_lines, files)):
        if None in lines:
            raise _unequal(files)
        for path, line, end in zip(files, lines, ends, strict=True):
            decode_utf8(line, path, end)  # bad text is found before hours of tokenising
        sizes = [end + len(line) - begin for end, line, begin in zip(ends, lines, cuts[-1][:2], strict=True)]
        if can_seek and sum(sizes) > part_bytes and count > cuts[-1][2]:
            cuts.append([*ends, count, count])
        ends = [end + len(line) for end, line in zip(ends, lines, strict=True)]
        count += 1
    return {"digests": digests, "cuts": cuts} | (numbered(count) if is_carved else {})


class PairLines(PairSource):
    """A file with a pair a line: two columns of a .tsv file, or two fields of a .jsonl file."""

    def __init__(self, path: Path, config: DataConfig):
        super().__init__(config.cache_dir)
        self.name, self._path, self._fraction = str(path), path, config.validation_fraction
        self._jsonl = is_jsonl(path)
        self.fields = check_fields(config) if self._jsonl else (config.fields or ("source", "target"))

    @property
    def _columns(self) -> tuple[str, str] | None:
        """The fields of a JSONL file; None for the columns of a .tsv file."""
        return self.fields if self._jsonl else None

    @property
    def _key(self) -> tuple[object, ...]:
        return ("pairs", os.path.abspath(self._path), self._columns)

    def _units(self) -> list[Unit]:
        return [Unit("", (os.path.abspath(self._path),))]

    @property
    def _scan(self) -> Scan:
        return functools.partial(_scan_pairs, path=self._path, columns=self._columns, part_bytes=self._part_bytes)

    @functools.cached_property
    def _split(self) -> HashSplit:
        return HashSplit(self.facts[0], self._fraction, self.name)

    def _hash(self) -> str:
        _ = self._split  # a corpus that cannot be split has no use for a fingerprint
        return receipts.combine("pairs", self._fraction, self._columns, self.facts[0]["digests"])

    def size(self, split: Split) -> int:
        share = self._fraction if split == "validation" else 1 - self._fraction
        return int(share * rough_text_size(self._path))

    def parts(self, split: Split) -> Sequence[Part]:
        return _cut(self.facts[0]["cuts"], 1)

    def part_pairs(self, part: Part, split: Split) -> Iterator[tuple[str, str]]:
        found = _pair_lines(self._path, self._columns, part)
        for number, (_, _, *pair) in enumerate(found, start=part.pair):
            if self._split(number) == split:
                yield pair[0], pair[1]


def _scan_pairs(unit: Unit, *, path: Path, columns: tuple[str, str] | None, part_bytes: int) -> Facts:
    digest, count = receipts.hash_file(unit.files[0]), 0
    cuts = [[0, 0, 0]]
    for offset, line, _, _ in _pair_lines(path, columns, Lines((0,), None, 0, 0)):
        if not is_compressed(path) and offset - cuts[-1][0] > part_bytes:
            cuts.append([offset, line, count])
        count += 1
    return {"digests": [digest], "cuts": cuts, **numbered(count)}


def _pair_lines(path: Path, columns: tuple[str, str] | None, part: Lines) -> Iterator[tuple[int, int, str, str]]:
    """The pairs with two sides in some lines of a file: byte and number of the line, source, target."""
    offset, stop = part.starts[0], part.stops[0] if part.stops else None
    for number, raw in enumerate(_raw_lines(path, offset, stop), start=part.line):
        line = decode_utf8(raw, path, offset).rstrip("\r\n")
        if line.strip():
            source, target = _parse(line, columns, f"{path}:{number + 1}")
            if source.strip() and target.strip():
                yield offset, number, source, target
        offset += len(raw)


def _parse(line: str, columns: tuple[str, str] | None, where: str) -> tuple[str, str]:
    if columns is not None:
        source, target = (jsonl_text(line, where, field, "--data.fields") for field in columns)
        return source, target
    found = line.split("\t")
    if len(found) < 2:
        raise UserError(f"{where}: one column. A .tsv file has a source, a tab and a target a line.")
    return found[0], found[1]


def open_pair_path(path: str, config: DataConfig) -> PairSource:
    """The pairs at `path`: a folder of parallel files, a .tsv, .jsonl or .parquet file; UserError if there are none."""
    root = Path(path).expanduser()
    if not root.exists():
        raise UserError(
            f"{root}: no such file or folder. Set --data.path to a folder of parallel files, .tsv, .jsonl or .parquet."
        )
    if root.is_dir():
        return ParallelFiles(root, check_fields(config), config)
    if is_parquet(root):
        return PairTable(root, check_fields(config), config)
    if is_tsv(root) or is_jsonl(root):
        return PairLines(root, config)
    raise UserError(f"{root} holds no pairs: give a folder of parallel files, a .tsv, a .jsonl or a .parquet file.")


def text_lines(path: Path, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """The lines of a UTF-8 file, without their ends; UserError names what is no text, and an empty file."""
    offset = start
    for line in _raw_lines(path, start, stop):
        yield decode_utf8(line, path, offset).rstrip("\r\n")
        offset += len(line)


def _raw_lines(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """The lines in bytes [start, stop) of a file's text, with their ends; UserError for an empty file."""
    offset = start
    for line in raw_lines(path, start, stop):
        yield line
        offset += len(line)
    if not offset:
        raise UserError(f"{path} is empty.")


def _existing(root: Path, name: str) -> Path | None:
    return next((path for suffix in ("", *COMPRESSED) if (path := root / f"{name}{suffix}").is_file()), None)
