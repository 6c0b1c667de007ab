"""Measuring: a step on this machine's processor, beside which the predictions of `prediction` are put."""

import ctypes
import dataclasses
import gc
import time
from pathlib import Path

import jax
import numpy as np

from transformer.planning.products import compiled_flops
from transformer.planning.step import Built

_UPDATES = 4
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGE = 2**17
"""Bytes from which on an array has memory of its own, which its end gives back."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an update took, all devices together."""

    memory: int
    """Bytes that the process had at the most, beyond what it had without state and batch."""
    seconds: float
    """Seconds of processor time, the least of some updates."""
    flops: float
    """FLOPs of the compiled program's matrix products."""


def give_memory_back() -> None:
    """Makes this process give the memory of large arrays back when they end; to be called before it computes."""
    libc = ctypes.CDLL("libc.so.6")
    for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
        libc.mallopt(option, _LARGE)


def measure(built: Built, batch: object) -> Measured:
    """Runs a few updates, on made-up numbers, and returns what they took. Linux alone tells a process's peak.

    Args:
      built: the compiled update, for this machine's processor.
      batch: as `ShapeDtypeStruct`s with shardings (`abstract_batch`).
    """
    with jax.set_mesh(built.mesh):
        _update(built, batch, 1)  # what a process has from its first update on is none of an update's memory
        _collect()
        before = _kilobytes("VmRSS")
        seconds = _update(built, batch, _UPDATES + 1)
        peak = _kilobytes("VmHWM")
    return Measured((peak - before) * 1024, min(seconds[1:]), compiled_flops(built.executable.as_text() or ""))


def _update(built: Built, batch: object, times: int) -> list[float]:
    """Returns the seconds of processor time of each of some updates; the last one alone counts for the peak."""
    program = built.program
    frozen, numbers = program.frozen, program.hyperparameters
    state = jax.tree.map(lambda leaf: _filled(leaf, 0.01), program.abstract)
    placed = jax.tree.map(lambda leaf: _filled(leaf, 1), batch)
    seconds = []
    for _ in range(times):
        _CLEAR.write_text(_RESET_PEAK)
        began = time.process_time()
        state, _ = built.executable(state, placed, frozen, numbers)
        jax.block_until_ready(state)
        seconds.append(time.process_time() - began)
    return seconds


def _filled(leaf: jax.ShapeDtypeStruct, value: float) -> jax.Array:
    value = value if np.issubdtype(leaf.dtype, np.floating) else int(value)
    return jax.device_put(np.full(leaf.shape, value, leaf.dtype), leaf.sharding)


def _collect() -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _kilobytes(field: str) -> int:
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(field))
