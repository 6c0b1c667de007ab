"""Pairs of texts, a source and a target: translations, a text and its summary."""

import abc
import functools
import hashlib
from collections.abc import Iterator

from transformer.data.config import DataConfig
from transformer.data.pieces import Piece, whole_document
from transformer.data.sources import Source, Split
from transformer.errors import UserError


class PairSource(abc.ABC):
    """Pairs of a corpus, read lazily."""

    name: str
    fields: tuple[str, str]
    """What the sides are called."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the content and of what decides the split: equal fingerprints, equal pairs."""
        return self._hash()

    @abc.abstractmethod
    def _hash(self) -> str: ...

    @abc.abstractmethod
    def size(self, split: Split) -> int:
        """Roughly the bytes of a split, both sides."""

    @abc.abstractmethod
    def pairs(self, split: Split) -> Iterator[tuple[str, str]]:
        """The pairs of a split in a fixed order, without those that have an empty side."""

    @property
    def sides(self) -> tuple[Source, Source]:
        """Sources and targets as corpora of their own: document i of one belongs to document i of the other."""
        return _Side(self, 0), _Side(self, 1)


class _Side(Source):
    """One side of the pairs, a document each."""

    def __init__(self, pairs: PairSource, side: int):
        self.name = f"{pairs.name} ({pairs.fields[side]})"
        self._pairs, self._side = pairs, side

    def _hash(self) -> str:
        return hashlib.blake2b(f"{self._pairs.fingerprint} {self._side}".encode(), digest_size=20).hexdigest()

    def size(self, split: Split) -> int:
        return self._pairs.size(split) // 2

    def pieces(self, split: Split) -> Iterator[Piece]:
        for pair in self._pairs.pairs(split):
            yield from whole_document(pair[self._side])


def check_fields(config: DataConfig) -> tuple[str, str]:
    """`config.fields`; UserError where they are not given or are one."""
    if config.fields is None or config.fields[0] == config.fields[1]:
        raise UserError(
            "This objective learns from pairs: name source and target with --data.fields, such as `en de` for the "
            "files train.en and train.de, or two JSONL or TFDS fields."
        )
    return config.fields
