"""Writing a shard: the tokens of one part of a corpus, with what is known of them, whole or not at all."""

import array
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from transformer.data.text.long_text import encode_documents
from transformer.data.text.pieces import Piece
from transformer.data.text.readable import Part, Split
from transformer.data.text.sources import Source
from transformer.data.text.stream import Shard, padded, shard_size
from transformer.tokenizers.tokenizer import Tokenizer

_BATCH_PARTS = 1 << 14  # documents, or parts of long ones, in memory at a time
PARTIAL = ".partial"


def token_dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


def _record_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05}.json"


def finished_shard(folder: Path, number: int, part: Part, tokenizer: Tokenizer) -> Shard | None:
    """Returns the shard that an earlier build of this part left in `folder`; None if it has yet to be made."""
    try:
        record = json.loads(_record_path(folder, number).read_text())
        if record["part"] != repr(part):
            return None
        shard = Shard(**record["shard"])
        whole = (folder / shard.file).stat().st_size == shard_size(shard, token_dtype(tokenizer).name)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return shard if whole else None


def make_shard(
    folder: Path,
    number: int,
    part: Part,
    source: Source,
    split: Split,
    tokenizer: Tokenizer,
    advance: Callable[[int], object] = lambda size: None,
) -> Shard:
    """Writes shard `number`, of `part`, into `folder`, and then its record, which says that it is whole.

    Args:
      advance: called with the bytes of text, batch by batch.

    Raises:
      UserError: text that cannot be read.
    """
    name = f"{number:05}.shard"
    descriptor, partial = tempfile.mkstemp(prefix=f".{name}.", suffix=PARTIAL, dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            shard = _write(file, name, source.part_pieces(part, split), source.name, tokenizer, advance)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, folder / name)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    record = _record_path(folder, number)
    temporary = record.with_name(f".{record.name}.{os.getpid()}{PARTIAL}")
    temporary.write_text(json.dumps({"part": repr(part), "shard": shard._asdict()}))
    os.replace(temporary, record)
    return shard


def _write(
    file, name: str, pieces: Iterable[Piece], source: str, tokenizer: Tokenizer, advance: Callable[[int], object]
) -> Shard:
    dtype, digest = token_dtype(tokenizer), hashlib.blake2b(digest_size=20)
    starts, tokens, text_bytes = array.array("q"), 0, 0
    bos, eos = np.array([tokenizer.bos_id], np.int32), np.array([tokenizer.eos_id], np.int32)

    def write(content: np.ndarray | bytes) -> None:
        data = bytes(content)
        file.write(data)  # not tofile: its error on a full disk does not say what it is
        digest.update(data)

    starts_document = True
    for batch in encode_documents(pieces, tokenizer, source, batch_parts=_BATCH_PARTS):
        row: list[np.ndarray] = []
        for ids, _, ends_document in batch:
            if starts_document:
                starts.append(tokens)
            row += [bos, ids] if starts_document else [ids]
            tokens += len(ids) + starts_document
            starts_document = ends_document
            if ends_document:
                row.append(eos)
                tokens += 1
        write(np.concatenate(row).astype(dtype))
        size = sum(len(part.text) for part in batch)
        text_bytes += size
        advance(size)
    size = tokens * dtype.itemsize
    write(bytes(padded(size) - size))
    if starts:
        write(np.frombuffer(starts, np.int64))
    return Shard(name, len(starts), tokens, text_bytes, digest.hexdigest())
