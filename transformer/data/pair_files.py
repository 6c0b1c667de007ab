"""Pairs in files: parallel text files in a folder, a .tsv file, a .jsonl file; each may be compressed (.gz, .zst).

With a validation fraction of 1, all pairs are validation, in order: a test set, which may be parallel files of any name.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from transformer.data import receipts
from transformer.data.config import DataConfig
from transformer.data.header import find_header
from transformer.data.jsonl import jsonl_text
from transformer.data.pair_split import HashSplit, numbered
from transformer.data.pair_table import PairTable
from transformer.data.pairs import PairSource, check_fields
from transformer.data.pieces import decode_utf8, digest_text
from transformer.data.readable import Part, Split
from transformer.data.readers import COMPRESSED, is_compressed, is_jsonl, is_tsv, raw_lines, rough_text_size
from transformer.data.receipts import Facts, Scan, Unit
from transformer.data.sources import existing
from transformer.data.tables import is_table
from transformer.errors import UserError

_TRAIN, _VALIDATION, _TEST = ("train",), ("val", "valid", "validation", "dev"), ("test",)


Columns = tuple[str, str] | tuple[int, int] | None
"""Which fields of a JSONL line, or which columns of a .tsv line, are source and target; None: the first two columns."""


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
    """{train,val}.{xx,yy}, a pair a line: line i of one file belongs to line i of the other.

    Where all pairs are validation: those of the first of `names` that the folder has.
    """

    def __init__(self, root: Path, fields: tuple[str, str], config: DataConfig, names: Sequence[str] = _TEST):
        super().__init__(config.cache_dir)
        self.name, self.fields, self._fraction = str(root), fields, config.validation_fraction
        if self._fraction == 1:
            names = names if names != _TEST else (*_TEST, *_VALIDATION, *_TRAIN)
            train, validation = self._find(root, names), None
        else:
            names = _TRAIN
            train, validation = (self._find(root, names) for names in (_TRAIN, _VALIDATION))
        if train is None:
            wanted = " and ".join(f"{names[0]}.{field}" for field in fields)
            raise UserError(
                f"{root} has no {wanted} (or .gz, .zst): put them there, or name others with --data.fields."
            )
        if self._fraction == 1:
            self.name = " and ".join(map(str, train))
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

    @property
    def notes(self) -> list[str]:
        return _empty_note(self.name, sum(facts.get("empty", 0) for facts in self.facts))

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
    digests = [digest_text(file) for file in files]
    can_seek = not any(map(is_compressed, files))
    cuts, ends, count, empty = [[0, 0, 0, 0]], [0, 0], 0, 0
    for lines in itertools.zip_longest(*map(_raw_lines, files)):
        if None in lines:
            raise _unequal(files)
        # Bad text is found before hours of tokenising.
        empty += not all([decode_utf8(*each).strip() for each in zip(lines, files, ends, strict=True)])
        sizes = [end + len(line) - begin for end, line, begin in zip(ends, lines, cuts[-1][:2], strict=True)]
        if can_seek and sum(sizes) > part_bytes and count > cuts[-1][2]:
            cuts.append([*ends, count, count])
        ends = [end + len(line) for end, line in zip(ends, lines, strict=True)]
        count += 1
    return {"digests": digests, "cuts": cuts, "empty": empty} | (numbered(count) if is_carved else {})


class PairLines(PairSource):
    """A file with a pair a line: two columns of a .tsv file, or two fields of a .jsonl file."""

    def __init__(self, path: Path, config: DataConfig):
        super().__init__(config.cache_dir)
        self.name, self._path, self._fraction = str(path), path, config.validation_fraction
        self._jsonl, self._header = is_jsonl(path), config.header
        self.fields = check_fields(config) if self._jsonl else (config.fields or ("source", "target"))

        self._named = config.fields

    @property
    def _columns(self) -> Columns:
        """The fields of a JSONL file, or the columns that the header of a .tsv file names; None: its first two."""
        if self._jsonl:
            return self.fields
        header = self.facts[0]["header"]
        return (header[0], header[1]) if header else None

    @property
    def _key(self) -> tuple[object, ...]:
        if self._jsonl:
            return ("pairs", os.path.abspath(self._path), self.fields)
        return ("tsv", os.path.abspath(self._path), self._named, self._header)

    def _units(self) -> list[Unit]:
        return [Unit("", (os.path.abspath(self._path),))]

    @property
    def _scan(self) -> Scan:
        fields = self.fields if self._jsonl else None
        header = None if self._jsonl else functools.partial(find_header, fields=self._named, asked=self._header)
        return functools.partial(
            _scan_pairs, path=self._path, fields=fields, find=header, part_bytes=self._part_bytes
        )

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

    @property
    def notes(self) -> list[str]:
        [facts] = self.facts
        named = " and ".join(facts.get("names", ()))
        header = [f"{self.name}: its first line names the columns {named}, and is no pair"] if named else []
        return header + _empty_note(self.name, facts.get("empty", 0))

    def part_pairs(self, part: Part, split: Split) -> Iterator[tuple[str, str]]:
        found = _pair_lines(self._path, self._columns, part)
        pairs = (pair for pair in found if pair[2].strip() and pair[3].strip())
        for number, (_, _, source, target) in enumerate(pairs, start=part.pair):
            if self._split(number) == split:
                yield source, target


def _scan_pairs(
    unit: Unit,
    *,
    path: Path,
    fields: tuple[str, str] | None,
    find: Callable[[str], tuple[int, int] | None] | None,
    part_bytes: int,
) -> Facts:
    digest, count, empty = digest_text(Path(unit.files[0])), 0, 0
    header, first = _header(path, find) if find else (None, [0, 0, 0])
    columns: Columns = fields if find is None else header
    names = _names(path, header) if header else []
    cuts = [first]
    for offset, line, source, target in _pair_lines(path, columns, _cut(cuts, 1)[0]):
        if not (source.strip() and target.strip()):
            empty += 1
            continue
        if not is_compressed(path) and offset - cuts[-1][0] > part_bytes:
            cuts.append([offset, line, count])
        count += 1
    return {"digests": [digest], "cuts": cuts, "header": header, "names": names, "empty": empty, **numbered(count)}


def _header(path: Path, find: Callable[[str], tuple[int, int] | None]) -> tuple[tuple[int, int] | None, list[int]]:
    """The columns that the first line names, if it does; and where the pairs begin, as a cut."""
    first = next(_raw_lines(path))
    header = find(decode_utf8(first, path, 0).rstrip("\r\n"))
    return header, [len(first), 1, 0] if header else [0, 0, 0]


def _names(path: Path, header: tuple[int, int]) -> list[str]:
    cells = next(text_lines(path)).split("\t")
    return [cells[column].strip() for column in header]


def _empty_note(name: str, empty: int) -> list[str]:
    return [f"{name}: {empty:,} pair{'s' * (empty != 1)} with an empty side left out"] if empty else []


def _pair_lines(path: Path, columns: Columns, part: Lines) -> Iterator[tuple[int, int, str, str]]:
    """The pairs in some lines of a file, but for blank lines: byte and number of the line, source, target."""
    offset, stop = part.starts[0], part.stops[0] if part.stops else None
    for number, raw in enumerate(_raw_lines(path, offset, stop), start=part.line):
        line = decode_utf8(raw, path, offset).rstrip("\r\n")
        if line.strip():
            yield offset, number, *_parse(line, columns, f"{path}:{number + 1}")
        offset += len(raw)


def _parse(line: str, columns: Columns, where: str) -> tuple[str, str]:
    source, target = columns or (0, 1)
    if isinstance(source, str) and isinstance(target, str):
        return jsonl_text(line, where, source, "--data.fields"), jsonl_text(line, where, target, "--data.fields")
    found, needed = line.split("\t"), 1 + max(int(source), int(target))
    if len(found) < 2:
        raise UserError(f"{where}: one column. A .tsv file has a source, a tab and a target a line.")
    if len(found) < needed:
        raise UserError(f"{where}: {len(found)} columns, and the header names column {needed}.")
    return found[int(source)], found[int(target)]


def open_pair_path(path: str, config: DataConfig) -> PairSource:
    """The pairs at `path`: a folder of parallel files, or a .tsv, .jsonl, .json, .csv or .parquet file; where all pairs
    are validation, also what parallel files have in common (`test` of test.en and test.de).

    Raises:
      UserError: there are none.
    """
    prefix = Path(os.path.expanduser(path))
    if config.validation_fraction == 1 and config.fields and prefix.name and not prefix.is_dir():
        if any(_existing(prefix.parent, f"{prefix.name}.{field}") for field in config.fields):
            return ParallelFiles(prefix.parent, check_fields(config), config, (prefix.name,))
    root = existing(path, "a folder of parallel files, or a .tsv, .jsonl, .json, .csv or .parquet file")
    if root.is_dir():
        return ParallelFiles(root, check_fields(config), config)
    if is_tsv(root) or is_jsonl(root):
        return PairLines(root, config)
    if is_table(root):
        return PairTable(root, check_fields(config), config)
    raise UserError(
        f"{root} holds no pairs: give a folder of parallel files, or a .tsv, .jsonl, .json, .csv or .parquet file."
    )


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
