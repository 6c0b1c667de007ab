"""Throughput: tokens per second, and model FLOPs utilisation (MFU; Chowdhery et al. 2022, appendix B)."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from transformer.chips import chip_of

MFU_CONVENTION = "exact"
"""Convention, one of `transformer.models.conventions`, by which utilisation counts a model's FLOPs wherever it is
written or printed: the one that `Architecture.flops_per_token` computes."""


def peak_flops(devices: Sequence[Any]) -> tuple[float | None, str]:
    """Returns the FLOP/s of all `devices` together (None for a chip that is not known), and the figure's source.

    A CPU's peak is measured, since no table knows how many cores a container may use. Fake devices share their host's.
    """
    kind, platform = devices[0].device_kind, devices[0].platform
    if platform == "cpu":
        return measured_matmul_flops() * jax.process_count(), "a float32 matrix product measured on this CPU"
    chip = chip_of(kind)
    if chip is None:
        return None, f"unknown for {kind}"
    return chip.bf16 * len(devices), f"{len(devices)} x {kind}, dense bfloat16"


def measured_matmul_flops(size: int = 1024, rounds: int = 5) -> float:
    """Returns the FLOP/s of a float32 product of two square matrices here, the best of some rounds."""
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
