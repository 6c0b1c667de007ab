"""Building token stores: a shard a part of the corpus, by this process, by workers beside it, or by Apache Beam.

The parts follow from the corpus alone, so the tokens are the same to the byte whoever makes them. Finished shards
outlive a build that is stopped: the next one goes on with the others.
"""

import hashlib
import lzma
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from transformer.atomic import building_folder, exclusive, fill_folder
from transformer.data.bar import progress_bar
from transformer.data.receipts import Facts, Scan, Unit
from transformer.data.text.pieces import Piece
from transformer.data.text.readable import Part, Split
from transformer.data.text.shards import PARTIAL, finished_shard, make_shard, token_dtype
from transformer.data.text.sources import Source
from transformer.data.text.store import FORMAT_VERSION, StoreMeta, TokenStore, write_manifest
from transformer.data.text.stream import Shard
from transformer.errors import UserError
from transformer.tokenizers.tokenizer import Tokenizer

TOKENIZER = ".tokenizer"
"""Where other processes find the tokenizer while a store is built, in its folder."""
_COMPRESSED_BYTES = 32 << 20  # gzip and xz see at most this much: xz -9 takes a second a megabyte


class Job(NamedTuple):
    """A store that is being built."""

    folder: Path
    """Where its shards go."""
    source: Source
    split: Split
    tokenizer: Tokenizer
    parts: Sequence[Part]

    def make(self, number: int, advance: Callable[[int], object] = lambda size: None) -> Shard:
        """Makes the shard of part `number`."""
        part = self.parts[number]
        return make_shard(self.folder, number, part, self.source, self.split, self.tokenizer, advance)


class Maker(Protocol):
    """Who reads corpora and makes shards."""

    def map(self, scan: Scan, units: Iterable[Unit]) -> Iterator[Facts]:
        """As the built-in `map`, in order."""
        ...

    def make(self, job: Job, numbers: Sequence[int], advance: Callable[[int], object]) -> None:
        """Makes the shards of these parts. UserError where one cannot be made; the others may be there already."""
        ...


class Here:
    """This process makes all shards; the tokenizer's own threads use the cores."""

    def map(self, scan: Scan, units: Iterable[Unit]) -> Iterator[Facts]:
        return map(scan, units)

    def make(self, job: Job, numbers: Sequence[int], advance: Callable[[int], object]) -> None:
        for number in numbers:
            job.make(number, advance)


class Built(NamedTuple):
    """A store that was asked for."""

    store: TokenStore
    tokens: int = 0
    """Those of the shards that were made now."""
    seconds: float = 0.0
    """How long these shards took; 0 if there were none."""


def find_or_build(
    source: Source, split: Split, tokenizer: Tokenizer, cache_dir: str | Path, maker: Maker | None = None
) -> Built:
    """Returns the store of `split` of `source`, and how much of it was made now: none where it was there.

    A finished store is found by the corpus' receipt: nothing of the corpus is read, and nothing is written. A damaged
    store is built again, with a notice. Several processes may ask at once: one builds.

    Raises:
      UserError: text that cannot be read, an empty split, a full disk.
    """
    maker = maker or Here()
    source.read(maker.map)
    corpus = source.fingerprint
    key = hashlib.blake2b(
        repr((corpus, split, tokenizer.fingerprint, FORMAT_VERSION)).encode(), digest_size=12
    ).hexdigest()
    place = Path(cache_dir).expanduser() / "stores" / f"{split}-{key}"
    if (store := _open(place)) is not None:
        return Built(store)
    if os.path.exists(place):  # False too for a name that is too long
        print(f"The token store {place} is damaged; it is built again.", file=sys.stderr)
    with exclusive(place.with_name(f".{place.name}.lock")):
        if (store := _open(place)) is not None:  # another process built it meanwhile
            return Built(store)
        job = Job(building_folder(place), source, split, tokenizer, source.parts(split))
        try:
            made: list[tuple[int, float]] = []
            fill_folder(place, lambda folder: made.append(_write(job, corpus, maker)))
        finally:
            _clean(job)
        return Built(TokenStore.open(place), *made[0])


def _open(place: Path) -> TokenStore | None:
    try:
        return TokenStore.open(place)
    except UserError:
        return None


def _clean(job: Job) -> None:
    """Removes what a build that failed leaves half-made; finished shards stay."""
    for partial in (*job.folder.glob(f".*{PARTIAL}"), *job.folder.glob("*.error")):
        partial.unlink(missing_ok=True)
    shutil.rmtree(job.folder / TOKENIZER, ignore_errors=True)
    if not any(job.folder.glob("*.shard")):
        shutil.rmtree(job.folder, ignore_errors=True)


def _write(job: Job, corpus: str, maker: Maker) -> tuple[int, float]:
    """Makes the store of `job`; returns the tokens of the shards that were missing, and the seconds they took."""
    _clean(job)
    job.folder.mkdir(exist_ok=True)

    def finished() -> list[Shard | None]:
        return [finished_shard(job.folder, number, part, job.tokenizer) for number, part in enumerate(job.parts)]

    before = finished()
    numbers = [number for number, shard in enumerate(before) if shard is None]
    total, done = job.source.size(job.split), sum(shard.text_bytes for shard in before if shard is not None)
    with progress_bar(total, f"Tokenising {job.source.name} ({job.split})", "B", done) as bar:
        begun = time.perf_counter()
        if numbers:
            maker.make(job, numbers, bar.update)
        seconds = time.perf_counter() - begun
    made = [shard for shard in finished() if shard is not None]
    if len(made) != len(job.parts):
        raise UserError(f"{len(job.parts) - len(made)} shards of {job.source.name} were not made. Run again.")
    shards = [shard for shard in made if shard.documents]
    if not shards:
        shutil.rmtree(job.folder)
        raise UserError(f"{job.source.name}: its {job.split} split has no text. Give it more documents.")
    meta = _meta(job, corpus, shards)
    if job.source.is_changed():
        shutil.rmtree(job.folder)
        raise UserError(f"{job.source.name} changed while it was tokenised. Run again.")
    write_manifest(job.folder, meta, shards)
    kept = {shard.file for shard in shards}
    for file in job.folder.iterdir():
        if (file.suffix == ".shard" and file.name not in kept) or (file.stem.isdigit() and file.suffix == ".json"):
            file.unlink()
    return sum(made[number].tokens for number in numbers), seconds


def _meta(job: Job, corpus: str, shards: Sequence[Shard]) -> StoreMeta:
    measured, gzip9, xz9 = (
        _compressed(job.source.pieces(job.split)) if job.split == "validation" else (None, None, None)
    )
    return StoreMeta(
        version=FORMAT_VERSION,
        source=job.source.name,
        corpus=corpus,
        split=job.split,
        tokenizer=job.tokenizer.fingerprint,
        dtype=token_dtype(job.tokenizer).name,
        documents=sum(shard.documents for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        text_bytes=sum(shard.text_bytes for shard in shards),
        measured_bytes=measured,
        gzip9_bytes=gzip9,
        xz9_bytes=xz9,
    )


def _compressed(pieces: Iterable[Piece]) -> tuple[int, int, int]:
    """Returns bytes of the first pieces, and the sizes that the command lines `gzip -9` and `xz -9` make of them."""
    compressors = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS), lzma.LZMACompressor(preset=9)
    sizes, measured = [0, 0], 0
    for text in _first_bytes(pieces, _COMPRESSED_BYTES):
        measured += len(text)
        sizes = [size + len(c.compress(text)) for size, c in zip(sizes, compressors, strict=True)]
    gzip_size, xz_size = (size + len(c.flush()) for size, c in zip(sizes, compressors, strict=True))
    return measured, gzip_size, xz_size


def _first_bytes(pieces: Iterable[Piece], count: int) -> Iterator[bytes]:
    for piece in pieces:
        text = piece.text.encode("utf-8")[:count]
        yield text
        count -= len(text)
        if not count:
            return
