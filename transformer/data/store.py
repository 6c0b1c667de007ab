"""The token store: a corpus split as one memory-mapped stream of tokens. Built once, whole or not at all.

A folder of three files:
  tokens.bin   BOS t1 ... tn EOS of every document, end to end; uint16 if the vocabulary allows, else uint32
  offsets.npy  int64[documents + 1]: where each document starts, and the end
  meta.json    `StoreMeta`
"""

import array
import dataclasses
import hashlib
import json
import lzma
import sys
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
import tqdm

from transformer.data.atomic import build_folder
from transformer.data.long_text import encode_documents
from transformer.data.sources import Source, Split
from transformer.data.tokenizer import Tokenizer
from transformer.errors import UserError

FORMAT_VERSION = 1
_BATCH_PARTS = 1 << 14  # documents, or parts of long ones, in memory at a time
_COMPRESSED_BYTES = 32 << 20  # gzip and xz see at most this much: xz -9 takes a second a megabyte


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
    tokens: np.ndarray
    """uint16 or uint32[tokens], memory-mapped."""
    offsets: np.ndarray
    """int64[documents + 1]."""
    meta: StoreMeta

    @classmethod
    def open(cls, folder: str | Path) -> "TokenStore":
        """Opens the store in `folder`. UserError if there is none, or one that is damaged or of another version."""
        folder = Path(folder)
        damaged = UserError(f"{folder} is not a whole token store. Delete it: the next run builds it again.")
        try:
            meta = StoreMeta(**json.loads((folder / "meta.json").read_text()))
            if meta.version != FORMAT_VERSION:
                raise damaged
            offsets = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False)
            size = (folder / "tokens.bin").stat().st_size
            if size != meta.tokens * np.dtype(meta.dtype).itemsize or offsets.shape != (meta.documents + 1,):
                raise damaged
            if offsets[0] != 0 or offsets[-1] != meta.tokens:
                raise damaged
            tokens = np.memmap(folder / "tokens.bin", meta.dtype, "r", shape=(meta.tokens,))
        except (OSError, ValueError, TypeError, EOFError):
            raise damaged from None
        return cls(tokens, offsets, meta)


def build_store(source: Source, split: Split, tokenizer: Tokenizer, cache_dir: str | Path) -> TokenStore:
    """The store of `split` of `source`: an existing one if corpus, tokenizer and format are the same, else a new one.

    A damaged store is built again, with a notice. Several processes may ask at once: one builds.

    Raises:
      UserError: text that cannot be read, an empty split, a full disk.
    """
    corpus = source.fingerprint
    key = hashlib.blake2b(
        repr((corpus, split, tokenizer.fingerprint, FORMAT_VERSION)).encode(), digest_size=12
    ).hexdigest()
    folder = Path(cache_dir).expanduser() / "stores" / f"{split}-{key}"
    if folder.exists() and not _is_whole(folder):
        print(f"The token store {folder} is damaged; it is built again.", file=sys.stderr)
    build_folder(folder, _is_whole, lambda place: _write(place, source, corpus, split, tokenizer))
    return TokenStore.open(folder)


def _is_whole(folder: Path) -> bool:
    try:
        TokenStore.open(folder)
    except UserError:
        return False
    return True


def _write(folder: Path, source: Source, corpus: str, split: Split, tokenizer: Tokenizer) -> None:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    compressed = _Compressed() if split == "validation" else None
    offsets, tokens, text_bytes = array.array("q", [0]), 0, 0
    bos, eos = np.array([tokenizer.bos_id], np.int32), np.array([tokenizer.eos_id], np.int32)
    starts_document = True
    progress = tqdm.tqdm(
        total=source.size(split),
        desc=f"Tokenising {source.name} ({split})",
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None,
    )
    with progress, (folder / "tokens.bin").open("wb") as file:
        for batch in encode_documents(source.pieces(split), tokenizer, source.name, batch_parts=_BATCH_PARTS):
            row: list[np.ndarray] = []
            for ids, _, ends_document in batch:
                row += [bos, ids] if starts_document else [ids]
                tokens += len(ids) + starts_document
                starts_document = ends_document
                if ends_document:
                    row.append(eos)
                    tokens += 1
                    offsets.append(tokens)
            # Not tofile: its error on a full disk does not say what it is.
            file.write(np.concatenate(row).astype(dtype).data)
            written = b"".join(part.text for part in batch)
            text_bytes += len(written)
            progress.update(len(written))
            if compressed is not None:
                compressed.add(written)
    if tokens == 0:
        raise UserError(f"{source.name}: its {split} split has no text. Give it more documents.")
    np.save(folder / "offsets.npy", np.frombuffer(offsets, np.int64), allow_pickle=False)
    measured, gzip9, xz9 = compressed.finish() if compressed is not None else (None, None, None)
    meta = StoreMeta(
        version=FORMAT_VERSION,
        source=source.name,
        corpus=corpus,
        split=split,
        tokenizer=tokenizer.fingerprint,
        dtype=dtype.name,
        documents=len(offsets) - 1,
        tokens=tokens,
        text_bytes=text_bytes,
        measured_bytes=measured,
        gzip9_bytes=gzip9,
        xz9_bytes=xz9,
    )
    (folder / "meta.json").write_text(json.dumps(dataclasses.asdict(meta), indent=2) + "\n")


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class _Compressed:
    """The sizes that the command lines `gzip -9` and `xz -9` reach, counted as the text streams by."""

    def __init__(self):
        self._measured = 0
        gzip9: _Compressor = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        self._compressors: list[_Compressor] = [gzip9, lzma.LZMACompressor(preset=9)]
        self._sizes = [0, 0]

    def add(self, text: bytes) -> None:
        text = text[: max(0, _COMPRESSED_BYTES - self._measured)]
        self._measured += len(text)
        for i, compressor in enumerate(self._compressors):
            self._sizes[i] += len(compressor.compress(text))

    def finish(self) -> tuple[int, int, int]:
        gzip9, xz9 = (size + len(c.flush()) for size, c in zip(self._sizes, self._compressors, strict=True))
        return self._measured, gzip9, xz9
