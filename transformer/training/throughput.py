"""Throughput: tokens per second, and model FLOPs utilisation (MFU; Chowdhery et al. 2022, appendix B)."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

MFU_CONVENTION = "exact"
"""Convention, one of `transformer.models.conventions`, by which utilisation counts a model's FLOPs wherever it is
written or printed: the one that `Architecture.flops_per_token` computes."""

# Dense bfloat16 FLOP/s of a chip, from the makers' data sheets; keys are matched at the start of `device_kind`, longest
# first.
PEAK_FLOPS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA A10G": 70e12,
    "Tesla V100": 125e12,
    "Tesla T4": 65e12,
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12,
}


def peak_flops(devices: Sequence[Any]) -> tuple[float | None, str]:
    """Returns the FLOP/s of all `devices` together (None for a chip not in the table), and the figure's source.

    A CPU's peak is measured, since no table knows how many cores a container may use. Fake devices share their host's.
    """
    kind, platform = devices[0].device_kind, devices[0].platform
    if platform == "cpu":
        return _measured_matmul_flops() * jax.process_count(), "a float32 matrix product measured on this CPU"
    for name in sorted(PEAK_FLOPS, key=len, reverse=True):
        if kind.startswith(name):
            return PEAK_FLOPS[name] * len(devices), f"{len(devices)} x {kind}, dense bfloat16"
    return None, f"unknown for {kind}"


def _measured_matmul_flops(size: int = 1024, rounds: int = 5) -> float:
    x = jnp.ones((size, size), jnp.float32)
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        product(x).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class Throughput:
    """A clock of steps since the last report, which leaves out compilation, evaluation and saving."""

    def __init__(self, tokens_per_step: int, flops_per_token: float, peak: float | None):
        self._tokens, self._flops, self._peak = tokens_per_step, flops_per_token, peak
        self._steps, self._seconds, self._mark = 0, 0.0, None

    def step_done(self) -> None:
        """Counts a step, if the clock was running when it began."""
        now = time.perf_counter()
        if self._mark is not None:
            self._steps += 1
            self._seconds += now - self._mark
        self._mark = now

    def pause(self) -> None:
        """Stops the clock until the next step is done, which is then not counted."""
        self._mark = None

    def report(self) -> dict[str, float]:
        """Returns `tokens_per_second`, `step_seconds` and `mfu` since the last report; empty if no step was timed."""
        if not self._steps:
            return {}
        seconds = self._seconds / self._steps
        rate = self._tokens / seconds
        self._steps, self._seconds = 0, 0.0
        values = {"tokens_per_second": rate, "step_seconds": seconds}
        if self._peak:
            values["mfu"] = rate * self._flops / self._peak
        return values
