"""Pairs in a table (a Parquet or .csv file, a JSON array): two of its columns or fields, a pair a row."""

import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformer.data import receipts
from transformer.data.pairs.pairs import PairSource
from transformer.data.pairs.split import HashSplit, numbered
from transformer.data.receipts import Facts, Scan, Unit
from transformer.data.text import tables
from transformer.data.text.config import TextConfig
from transformer.data.text.readable import Part, Split


class PairTable(PairSource):
    """A table with a pair a row; `fields` names the columns."""

    def __init__(self, path: Path, fields: tuple[str, str], config: TextConfig):
        super().__init__(config.cache_dir)
        self.name, self.fields, self._path = str(path), fields, path
        self._fraction = config.validation_fraction

    @property
    def _key(self) -> tuple[object, ...]:
        return ("table", os.path.abspath(self._path))

    def _units(self) -> list[Unit]:
        return [Unit("", (os.path.abspath(self._path),))]

    @property
    def _scan(self) -> Scan:
        return functools.partial(_scan_table, path=self._path, part_bytes=self._part_bytes)

    @functools.cached_property
    def _split(self) -> HashSplit:
        return HashSplit(self.facts[0], self._fraction, self.name)

    def _hash(self) -> str:
        _ = self._split  # a corpus that cannot be split has no use for a fingerprint
        return receipts.combine("table", self._fraction, self.fields, self.facts[0]["digests"])

    def size(self, split: Split) -> int:
        share = self._fraction if split == "validation" else 1 - self._fraction
        return int(share * self.facts[0]["bytes"])

    def parts(self, split: Split) -> Sequence[Part]:
        """Ranges of the file's row groups, begin and end."""
        [facts] = self.facts
        return list(itertools.pairwise([*facts["cuts"], facts["bytes"]]))

    def part_pairs(self, part: Part, split: Split) -> Iterator[tuple[str, str]]:
        start, stop = part
        for row, (source, target) in tables.texts(self._path, self.fields, start, stop, "--data.fields"):
            if source.strip() and target.strip() and self._split(row) == split:
                yield source, target


def _scan_table(unit: Unit, *, path: Path, part_bytes: int) -> Facts:
    table = tables.layout(path)
    cuts = [group.start for group in table.cuts(part_bytes)]
    digests = [tables.digest(path)]
    return {"digests": digests, "bytes": table.size, "cuts": cuts, **numbered(table.rows)}
