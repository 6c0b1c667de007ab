"""Saving, sealing and restoring a training state, durably and locally, beside the disk itself: python
tools/bench_checkpoint.py [--gigabytes 1] [--local-folder DIR].
"""

import dataclasses
import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from transformer import command
from transformer.chips import device_name

_CHUNK = 2**24
_LOCAL = ("local blocked", "local save", "local restore")


@dataclasses.dataclass(frozen=True)
class Command:
    """Measure saves and restores of a state of random numbers; nothing else should be running."""

    gigabytes: float = 1.0
    """Size of the state: a third weights, two thirds moments."""
    folder: str | None = None
    """On the disk to measure; by default the system's temporary one."""
    local_folder: str | None = None
    """On the disk of the local checkpoints, as --checkpoint.local-dir; by default that of the durable ones."""
    rounds: int = 3
    """Turns that each contender takes."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/bench_checkpoint.py", default=Command())
    command.start_jax()
    import jax
    from etils import epath

    from transformer.checkpoint import CheckpointConfig, Checkpoints
    from transformer.checkpoint.seal import seal

    rows = round(flags.gigabytes * 1e9 / 3 / 4 / 8 / 1024)
    key = jax.random.key(0)
    leaf = lambda number: jax.random.normal(jax.random.fold_in(key, number), (8, rows, 1024))  # noqa: E731
    params, opt_state = {"w": leaf(0)}, {"m": leaf(1), "v": leaf(2)}
    jax.block_until_ready((params, opt_state))
    size = sum(x.nbytes for x in (params["w"], *opt_state.values()))
    aim = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), (params, opt_state))
    print(
        f"{size / 1e9:.2f} GB of float32 noise, {device_name('cpu')}, {os.cpu_count()} cores; "
        f"medians of {flags.rounds} rounds"
    )
    seconds: dict[str, list[float]] = {
        name: [] for name in ("blocked", "save", "seal", "sha256", "write", "restore", "read", *_LOCAL)
    }
    with tempfile.TemporaryDirectory(dir=flags.folder) as folder:
        raw = Path(folder) / "raw"
        with Checkpoints(Path(folder) / "checkpoints", CheckpointConfig(keep=1, keep_best=0)) as store:
            for step in range(flags.rounds + 1):
                store.save(step, params=params, opt_state=opt_state, data={"step": step}, record={})
                saved = store.outcome(wait=True)
                if saved is None or saved.failure:
                    sys.exit(f"the save failed: {saved}")
                sealing = _timed(lambda: seal(epath.Path(folder) / "checkpoints" / str(step)))  # noqa: B023 - called at once
                hashing = _timed(lambda: _sha256(Path(folder) / "checkpoints"))
                write = _write(raw, memoryview(np.asarray(params["w"]).tobytes()), size)
                _forget(folder)
                began = time.perf_counter()
                jax.block_until_ready(store.restore(step, params=aim[0], opt_state=aim[1])[:2])
                restore = time.perf_counter() - began
                _forget(folder)
                read = _read(raw)
                locally = _locally(flags.local_folder or folder, Path(folder), step, params, opt_state, aim)
                if step:  # the first round compiles
                    values = (saved.blocked, saved.seconds, sealing, hashing, write, restore, read, *locally)
                    for name, value in zip(seconds, values, strict=True):
                        seconds[name].append(value)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rate = {name: size / 1e6 / value for name, value in median.items()}
    print(f"save: the loop waits {median['blocked']:.2f} s; complete after {median['save']:.2f} s")
    print(f"  {rate['save']:,.0f} MB/s, the disk raw {rate['write']:,.0f}: {rate['save'] / rate['write']:.2f} of it")
    print(f"seal, just written: {median['seal']:.2f} s")
    print(f"  {rate['seal'] / 1e3:.2f} GB/s; one thread with SHA-256 makes {rate['sha256'] / 1e3:.2f}")
    print(f"restore: {median['restore']:.2f} s, values checked")
    print(
        f"  {rate['restore']:,.0f} MB/s, the disk raw {rate['read']:,.0f}: {rate['restore'] / rate['read']:.2f} of it"
    )
    print(
        f"local save: the loop waits {median['local blocked']:.2f} s; complete after {median['local save']:.2f} s, "
        f"{rate['local save']:,.0f} MB/s: {median['save'] / median['local save']:.1f} times as fast as the durable one"
    )
    print(
        f"local restore: {median['local restore']:.2f} s, {rate['local restore']:,.0f} MB/s, hashes checked: "
        f"{median['restore'] / median['local restore']:.1f} times as fast as the durable one"
    )


def _locally(place: str, run: Path, step: int, params: Any, opt_state: Any, aim: Any) -> tuple[float, float, float]:
    """Returns the seconds that the loop waits for a local save, until it is complete, and of a restore by a new start.

    What is restored is dropped from the system's cache before.
    """
    from transformer.checkpoint.local import LocalCheckpoints

    local_dir = Path(place) / "local"
    with LocalCheckpoints(str(local_dir), run, {}, begun=True) as local:
        local.begin(None)
        local.save(step, params=params, opt_state=opt_state, evaluated=False)
        saved = local.outcome(wait=True)
        if saved is None or saved.failure:
            sys.exit(f"the local save failed: {saved}")
    _forget(str(local_dir))
    with LocalCheckpoints(str(local_dir), run, {}, begun=True) as local:
        restored = local.restore(step - 1, print, params=aim[0], opt_state=aim[1])
        if restored is None:
            sys.exit("the local restore failed")
        local.drop(step)
    return saved.blocked, saved.seconds, restored.seconds


def _write(path: Path, content: memoryview, size: int) -> float:
    """Returns the seconds of writing so many bytes, on the disk and not only on their way."""
    began = time.perf_counter()
    with path.open("wb") as file:
        for start in range(0, size, _CHUNK):
            place = start % (len(content) - _CHUNK)
            file.write(content[place : place + min(_CHUNK, size - start)])
        os.fsync(file.fileno())
    return time.perf_counter() - began


def _read(path: Path) -> float:
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.read(_CHUNK):
            pass
    return time.perf_counter() - began


def _timed(action: Callable[[], object]) -> float:
    """Returns the seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _sha256(folder: Path) -> None:
    """Hashes a folder's files one after the other."""
    for path in _files(folder):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(2**22):
                digest.update(chunk)


def _forget(folder: str) -> None:
    """Drops a folder's files from the system's cache, so that the next read is one from the disk."""
    for path in _files(Path(folder)):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
