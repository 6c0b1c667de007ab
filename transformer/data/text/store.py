"""The token store: a corpus split as one stream of tokens, in shards that are mapped into memory. `build` makes it.

A folder of:
  manifest.json  `StoreMeta`, and each shard's file, size and hash
  00000.shard    BOS t1 ... tn EOS of every document, end to end, uint16 if the vocabulary allows, else uint32; and
                 where each document begins. The shards follow each other, and none cuts a document.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transformer.data.receipts import hash_file
from transformer.data.text.stream import Offsets, Shard, Shards, Tokens, shard_size, text_document
from transformer.errors import UserError

FORMAT_VERSION = 2
MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class StoreMeta:
    version: int
    """`FORMAT_VERSION` of the writer."""
    source: str
    """Where the text came from, for people."""
    corpus: str
    """The corpus' fingerprint."""
    split: str
    """"train" or "validation"."""
    tokenizer: str
    """The tokenizer's fingerprint."""
    dtype: str
    """"uint16" or "uint32"."""
    documents: int
    tokens: int
    """With a BOS and an EOS a document."""
    text_bytes: int
    """UTF-8 bytes of the documents."""
    measured_bytes: int | None
    """How many of them, from the front, gzip and xz were given; None for training text."""
    gzip9_bytes: int | None
    """What `gzip -9` makes of them (zlib's level 9, which is within 0.1 % of the command)."""
    xz9_bytes: int | None
    """What `xz -9` makes of them."""


@dataclasses.dataclass(frozen=True)
class TokenStore:
    """A store on disk, which is pickled as the name of its folder, or one in memory."""

    tokens: Any
    """uint16 or uint32[tokens]: an array, or what reads like one."""
    offsets: Any
    """int64[documents + 1], likewise."""
    meta: StoreMeta
    folder: Path | None = None
    """Where it lies; None: in memory."""

    @classmethod
    def open(cls, folder: str | Path) -> "TokenStore":
        """Opens the store in `folder`. UserError if there is none, or one that is damaged or of another version.

        Reads the manifest and asks for the size of each shard; maps none.
        """
        folder = Path(folder)
        damaged = UserError(f"{folder} is not a whole token store. Delete it: the next run builds it again.")
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            shards = [Shard(**shard) for shard in manifest.pop("shards")]
            meta = StoreMeta(**manifest)
            if meta.version != FORMAT_VERSION or not shards:
                raise damaged
            if any((folder / shard.file).stat().st_size != shard_size(shard, meta.dtype) for shard in shards):
                raise damaged
            view = Shards(folder, shards, meta.dtype)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise damaged from None
        if (view.tokens[-1], view.documents[-1]) != (meta.tokens, meta.documents):
            raise damaged
        return cls(Tokens(view), Offsets(view), meta, folder)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is None:
            return TokenStore, (self.tokens, self.offsets, self.meta)
        return TokenStore.open, (str(self.folder),)

    def starts_within(self, begin: int, end: int) -> np.ndarray:
        """Returns the tokens in (`begin`, `end`) that a document begins with."""
        first = self.offsets.searchsorted(begin, side="right")
        last = self.offsets.searchsorted(end, side="left")
        return np.asarray(self.offsets[first:last])

    def text_document(self, place: int) -> int:
        """Returns the document that holds token `place` of the text alone, without begins and ends of documents."""
        if isinstance(self.offsets, np.ndarray):
            return text_document(self.offsets, place)
        return self.offsets.text_document(place)


def write_manifest(folder: Path, meta: StoreMeta, shards: Sequence[Shard]) -> None:
    """Writes what makes a folder of shards a store."""
    manifest = {**dataclasses.asdict(meta), "shards": [shard._asdict() for shard in shards]}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def damaged_shards(folder: Path) -> list[Path]:
    """Reads a whole store again; returns the shards that are not what was written."""
    manifest = json.loads((folder / MANIFEST).read_text())
    shards = [Shard(**shard) for shard in manifest["shards"]]
    return [folder / shard.file for shard in shards if hash_file(folder / shard.file) != shard.digest]
