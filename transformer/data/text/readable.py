"""What texts and pairs of texts have in common: files that are read once, and parts that are read apart."""

import abc
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformer.data import receipts
from transformer.data.receipts import Facts, Found, Mapper, Scan, Unit

Split = Literal["train", "validation"]
PART_BYTES = 256 << 20
"""Text in a part of a corpus, which becomes a shard; no part is smaller than a document that it holds."""

Part = Any
"""What a source knows a part by: plain values, the same whoever cuts the corpus."""


class Readable(abc.ABC):
    """A corpus whose files are read once, for its fingerprint, its split and its cuts; then their receipt tells them.

    It is picklable, so that worker processes can read parts of it.
    """

    name: str

    def __init__(self, cache_dir: str):
        self._cache = Path(cache_dir).expanduser()
        self._part_bytes = PART_BYTES
        self._found: Found | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the content and of what decides the split: equal fingerprints, equal documents."""
        return self._hash()

    @property
    def facts(self) -> list[Facts]:
        """What was found in each unit, by its receipt if that is valid."""
        return self.read()

    def read(self, mapper: Mapper = map) -> list[Facts]:
        """Returns `facts`, read with `mapper` where the receipt lacks them."""
        if self._found is None:
            self._found = receipts.read_units(self._receipt, self._units(), self._scan, name=self.name, mapper=mapper)
        return self._found.facts

    def is_changed(self) -> bool:
        """Whether a file is not as it was when it was read."""
        return self._found is not None and receipts.stamps_now(self._units()) != self._found.stamps

    def recall(self) -> bool:
        """Takes what the receipt says for true, whatever the files are today; returns whether it knows them all."""
        self._found = receipts.recorded_units(self._receipt, self._units())
        return self._found is not None

    def verify(self, mapper: Mapper = map) -> list[str]:
        """Reads everything again; returns the files whose content is not what the receipt says, which forgets them."""
        return receipts.verify_units(self._receipt, self._units(), self._scan, name=self.name, mapper=mapper)

    @property
    def _receipt(self) -> Path:
        return receipts.receipt_path(self._cache, *self._key, self._part_bytes)

    @property
    @abc.abstractmethod
    def _key(self) -> tuple[object, ...]:
        """Plain values that decide what is found in the units, besides their content."""

    @abc.abstractmethod
    def _units(self) -> list[Unit]: ...

    @property
    @abc.abstractmethod
    def _scan(self) -> Scan: ...

    @abc.abstractmethod
    def _hash(self) -> str: ...

    @property
    def notes(self) -> list[str]:
        """What a person should know of how the corpus is read, a line each."""
        return []

    @abc.abstractmethod
    def size(self, split: Split) -> int:
        """Roughly the bytes of a split: for progress bars and for sampling, never for results."""

    @abc.abstractmethod
    def parts(self, split: Split) -> Sequence[Part]:
        """Returns the corpus cut into parts of whole documents, about `PART_BYTES` each, in order."""
