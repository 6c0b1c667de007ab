"""Pairs in one file, a line each: two columns of a .tsv file, two fields of a .jsonl file."""

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from transformer.data import receipts
from transformer.data.pairs.header import find_header
from transformer.data.pairs.pairs import PairSource, check_fields
from transformer.data.pairs.split import HashSplit, numbered
from transformer.data.receipts import Facts, Scan, Unit
from transformer.data.text.config import TextConfig
from transformer.data.text.jsonl import jsonl_text
from transformer.data.text.lines import Lines, cut_lines, empty_note, lines_of
from transformer.data.text.pieces import decode_utf8, digest_text
from transformer.data.text.readable import Part, Split
from transformer.data.text.readers import is_compressed, is_jsonl, rough_text_size
from transformer.errors import UserError

Columns = tuple[str, str] | tuple[int, int] | None
"""Which fields of a JSONL line, or which columns of a .tsv line, are source and target; None: the first two columns."""
FindHeader = Callable[[str, str], tuple[int, int] | None]
"""`find_header` of the first two lines."""


class PairLines(PairSource):
    """A file with a pair a line: two columns of a .tsv file, or two fields of a .jsonl file."""

    def __init__(self, path: Path, config: TextConfig):
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
        header = None if self._jsonl else functools.partial(find_header, fields=self._named, declared=self._header)
        return functools.partial(_scan_pairs, path=self._path, fields=fields, find=header, part_bytes=self._part_bytes)

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
        return cut_lines(self.facts[0]["cuts"], 1)

    @property
    def notes(self) -> list[str]:
        [facts] = self.facts
        named = " and ".join(facts.get("names", ()))
        header = [f"{self.name}: its first line names the columns {named}, and is no pair (--data.header False: it is)"]
        return (header if named else []) + empty_note(self.name, facts.get("empty", 0))

    def part_pairs(self, part: Part, split: Split) -> Iterator[tuple[str, str]]:
        lines = _pair_lines(self._path, self._columns, part)
        pairs = (pair for pair in lines if pair[2].strip() and pair[3].strip())
        for number, (_, _, source, target) in enumerate(pairs, start=part.pair):
            if self._split(number) == split:
                yield source, target


def _scan_pairs(
    unit: Unit,
    *,
    path: Path,
    fields: tuple[str, str] | None,
    find: FindHeader | None,
    part_bytes: int,
) -> Facts:
    digest, count, empty = digest_text(Path(unit.files[0])), 0, 0
    header, names, begin = _header(path, find) if find else (None, [], [0, 0, 0])
    columns: Columns = fields if find is None else header
    cuts = [begin]
    for offset, line, source, target in _pair_lines(path, columns, cut_lines(cuts, 1)[0]):
        if not (source.strip() and target.strip()):
            empty += 1
            continue
        if not is_compressed(path) and offset - cuts[-1][0] > part_bytes:
            cuts.append([offset, line, count])
        count += 1
    return {"digests": [digest], "cuts": cuts, "header": header, "names": names, "empty": empty, **numbered(count)}


def _header(path: Path, find: FindHeader) -> tuple[tuple[int, int] | None, list[str], list[int]]:
    """Returns the columns that the first line names, if it does, their names, and where the pairs begin, as a cut."""
    first, second = itertools.islice(itertools.chain(lines_of(path), [b""]), 2)
    line = decode_utf8(first, path, 0).rstrip("\r\n")
    header = find(line, decode_utf8(second, path, len(first)).rstrip("\r\n"))
    if header is None:
        return None, [], [0, 0, 0]
    cells = line.split("\t")
    return header, [cells[column].strip() for column in header], [len(first), 1, 0]


def _pair_lines(path: Path, columns: Columns, part: Lines) -> Iterator[tuple[int, int, str, str]]:
    """Yields the pairs in some lines of a file, but for blank lines: byte and number of the line, source, target."""
    offset, stop = part.starts[0], part.stops[0] if part.stops else None
    for number, raw in enumerate(lines_of(path, offset, stop), start=part.line):
        line = decode_utf8(raw, path, offset).rstrip("\r\n")
        if line.strip():
            yield offset, number, *_parse(line, columns, f"{path}:{number + 1}")
        offset += len(raw)


def _parse(line: str, columns: Columns, where: str) -> tuple[str, str]:
    source, target = columns or (0, 1)
    if isinstance(source, str) and isinstance(target, str):
        return jsonl_text(line, where, source, "--data.fields"), jsonl_text(line, where, target, "--data.fields")
    fields, needed = line.split("\t"), 1 + max(int(source), int(target))
    if len(fields) < 2:
        raise UserError(f"{where}: one column. A .tsv file has a source, a tab and a target a line.")
    if len(fields) < needed:
        raise UserError(f"{where}: {len(fields)} columns, and the header names column {needed}.")
    return fields[int(source)], fields[int(target)]
