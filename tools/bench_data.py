"""What a start costs on a large corpus: python tools/bench_data.py [--documents 1e9] [--tokens 1e12] [--folder DIR].

It makes a store of so many documents whose tokens are holes in sparse files (only where documents begin is on disk, 8
bytes each), and measures in fresh processes how long it takes to the first batch, from the first step and from a late
one, and how much memory. The store is removed at the end.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Literal

import numpy as np

from transformer import command
from transformer.errors import UserError

SHARD_TOKENS = 1 << 28
KINDS = ("windows", "text", "documents")
"""The readings of texts: windows of packed documents, windows of text alone, and parts of documents."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Measure the first batch of a synthetic corpus."""

    documents: float = 1e9
    tokens: float = 1e12
    length: int = 128
    """Tokens of a record."""
    batch_size: int = 64
    folder: str | None = None
    """Where the store is made, in a new folder; by default where temporary files are."""
    measure: Literal["windows", "text", "documents"] | None = None
    """Used by the tool itself: measure one kind in this process, on the store in --folder, from --step."""
    step: int = 0


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/bench_data.py")
    if flags.measure is not None:
        print(json.dumps(first_batch(flags.measure, flags)))
        return
    if not 8 * flags.documents <= flags.tokens:
        raise UserError("--tokens: at least 8 a document are needed")
    with tempfile.TemporaryDirectory(prefix="bench-data-", dir=flags.folder) as folder:
        begun = time.perf_counter()
        size = make_store(Path(folder), int(flags.documents), int(flags.tokens))
        print(f"{flags.documents:,.0f} documents, {flags.tokens:,.0f} tokens: {size / 1e9:.2f} GB on disk, ", end="")
        print(f"made in {time.perf_counter() - begun:.0f} s; records of {flags.length}, batches of {flags.batch_size}")
        print("seconds and MB are from opening the store to the first batch, beyond the libraries' own")
        print(f"{'records':10} {'start':12} {'seconds':>8} {'MB':>7} {'of records':>14}")
        late = int(flags.tokens) // (2 * flags.length * flags.batch_size)
        for kind in KINDS:
            steps = (("first time", 0), ("step 0", 0), (f"step {late:.3g}", late))
            for name, step in steps if kind == "documents" else steps[1:]:
                cost = measured(flags, folder, kind, step)
                print(f"{kind:10} {name:12} {cost['seconds']:8.3f} {cost['megabytes']:7.1f} {cost['records']:14,}")


def make_store(folder: Path, documents: int, tokens: int) -> int:
    """Writes a store of so many documents of random lengths, 7 at least; returns the bytes that it takes on disk."""
    from transformer.data.text.store import FORMAT_VERSION, StoreMeta, write_manifest
    from transformer.data.text.stream import Shard, padded

    count = max(1, tokens // SHARD_TOKENS)
    rng, shards = np.random.default_rng(0), []
    for number in range(count):
        here = [total * (number + 1) // count - total * number // count for total in (documents, tokens)]
        lengths = rng.integers(7, 2 * here[1] // here[0] - 7, here[0])
        lengths[-1] = max(7, int(here[1] - lengths[:-1].sum()))
        starts = np.concatenate([[0], np.cumsum(lengths)])
        size = int(starts[-1])
        with (folder / f"{number:05}.shard").open("wb") as file:
            file.truncate(padded(2 * size))
            file.seek(padded(2 * size))
            file.write(starts[:-1].astype(np.int64).tobytes())
        shards.append(Shard(f"{number:05}.shard", here[0], size, 4 * size, ""))
    total = sum(shard.tokens for shard in shards)
    meta = StoreMeta(
        FORMAT_VERSION, "bench", "c", "train", "t", "uint16", documents, total, 4 * total, None, None, None
    )
    write_manifest(folder, meta, shards)
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def measured(flags: Command, folder: str, kind: str, step: int) -> dict:
    """Returns what a fresh process measures."""
    ours = ("--measure", kind, "--step", step, "--folder", folder, "--length", flags.length)
    arguments = [*ours, "--batch-size", flags.batch_size]
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{kind}, step {step}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return json.loads(done.stdout)


def first_batch(kind: Literal["windows", "text", "documents"], flags: Command) -> dict:
    """Opens the store in this process and makes a batch; returns seconds, and megabytes that are not of files."""
    from transformer.data.pipeline import iterate, train_batches
    from transformer.data.prepare import cut
    from transformer.data.text.records import TextReading
    from transformer.data.text.store import TokenStore

    with Peak() as peak:
        begun = time.perf_counter()
        store = TokenStore.open(flags.folder or "")
        reading = TextReading(kind, flags.length, overlap=int(kind == "windows"), others=kind == "documents")
        records = cut(store, reading=reading, drop_remainder=True)
        data = train_batches([records], [1.0], example=as_it_is, batch_size=flags.batch_size, seed=0)
        with iterate(data, flags.step) as batches:
            next(batches)
        seconds = time.perf_counter() - begun
    return {"seconds": seconds, "megabytes": peak.megabytes, "records": len(records)}


def as_it_is(record, rng):
    """The example of a record: itself."""
    del rng
    return record


class Peak:
    """The most memory that a block takes: anonymous pages (RssAnon), not those of files, looked at each millisecond."""

    def __enter__(self) -> "Peak":
        self._before = self._most = anonymous_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self._most = max(self._most, anonymous_bytes())

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def megabytes(self) -> float:
        return (self._most - self._before) / 1e6


def anonymous_bytes() -> int:
    """This process's memory that no file backs."""
    status = Path("/proc/self/status").read_text()
    [line] = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
