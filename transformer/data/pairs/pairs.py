"""Pairs of texts, a source and a target: translations, a text and its summary."""

import abc
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformer.data.receipts import Facts, Mapper, Scan, Unit
from transformer.data.text.config import TextConfig
from transformer.data.text.pieces import Piece, whole_document
from transformer.data.text.readable import Part, Readable, Split
from transformer.data.text.sources import Source
from transformer.errors import UserError


class PairSource(Readable):
    """Pairs of a corpus, read lazily; its size counts both sides."""

    fields: tuple[str, str]
    """What the sides are called."""

    @abc.abstractmethod
    def part_pairs(self, part: Part, split: Split) -> Iterator[tuple[str, str]]:
        """Returns the pairs of a split in a part, in order, without those that have an empty side."""

    def pairs(self, split: Split) -> Iterator[tuple[str, str]]:
        """Returns the pairs of a split in a fixed order: those of its parts, one after the other."""
        return itertools.chain.from_iterable(self.part_pairs(part, split) for part in self.parts(split))

    @property
    def sides(self) -> tuple[Source, Source]:
        """Sources and targets as corpora of their own: document i of one belongs to document i of the other."""
        return _Side(self, 0), _Side(self, 1)


class _Side(Source):
    """One side of the pairs, a document each. What is read of the files is the pairs' own."""

    def __init__(self, pairs: PairSource, side: int):
        self.name = f"{pairs.name} ({pairs.fields[side]})"
        self._pairs, self._side = pairs, side

    def read(self, mapper: Mapper = map) -> list[Facts]:
        return self._pairs.read(mapper)

    def is_changed(self) -> bool:
        return self._pairs.is_changed()

    def recall(self) -> bool:
        return self._pairs.recall()

    def verify(self, mapper: Mapper = map) -> list[str]:
        return self._pairs.verify(mapper)

    @property
    def notes(self) -> list[str]:
        return self._pairs.notes

    @property
    def _receipt(self) -> Path:
        return self._pairs._receipt

    @property
    def _key(self) -> tuple[object, ...]:
        return self._pairs._key

    def _units(self) -> list[Unit]:
        return self._pairs._units()

    @property
    def _scan(self) -> Scan:
        return self._pairs._scan

    def _hash(self) -> str:
        return hashlib.blake2b(f"{self._pairs.fingerprint} {self._side}".encode(), digest_size=20).hexdigest()

    def size(self, split: Split) -> int:
        return self._pairs.size(split) // 2

    def parts(self, split: Split) -> Sequence[Part]:
        return self._pairs.parts(split)

    def part_pieces(self, part: Part, split: Split) -> Iterator[Piece]:
        for pair in self._pairs.part_pairs(part, split):
            yield from whole_document(pair[self._side])


def check_fields(config: TextConfig) -> tuple[str, str]:
    """`config.fields`; UserError where they are not given or are one."""
    if config.fields is None or config.fields[0] == config.fields[1]:
        raise UserError(
            "This objective learns from pairs: name source and target with --data.fields, such as `en de` for the "
            "files train.en and train.de, or two JSONL or TFDS fields."
        )
    return config.fields
