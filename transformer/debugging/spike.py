"""Spikes: steps whose loss or gradient is not finite, or whose loss is far above the losses before it."""

import collections
import dataclasses
import math
import statistics
from typing import Literal

WINDOW = 128
"""Most steps before that a loss is compared with."""
LEAST = 32
"""Least steps before that a loss is compared with: with fewer, the usual loss is not known."""
DEVIATIONS = 6.0
"""Number of deviations above the median that are still usual."""
_NORMAL = 1.4826
"""Ratio of the standard deviation to the median absolute deviation, for normally distributed losses."""
_RESOLUTION = 0.01
"""Least deviation, as a share of the median: with losses that hardly differ any rise would be a spike."""


@dataclasses.dataclass(frozen=True)
class Spike:
    """A step with an unusual loss or gradient."""

    step: int
    """The update, 1 for the first."""
    kind: Literal["loss not finite", "gradient not finite", "loss spike"]
    loss: float
    """Nats a target; NaN or infinite where it is not finite."""
    grad_norm: float
    """Norm of all gradients together, before any clipping."""
    bound: float | None
    """The largest loss that would have been usual; None after too few steps."""


class SpikeDetector:
    """Checks steps one after another.

    A loss spikes above  median + 6 max(1.4826 MAD, median / 100)  of the up to 128 finite losses before it, where MAD
    is the median absolute deviation from the median (Hampel's identifier: Davies and Gather 1993, "The identification
    of multiple outliers", JASA 88; 1.4826 MAD estimates the standard deviation, Rousseeuw and Croux 1993, JASA 88).
    Unlike a mean, a median does not follow the outliers that it is to find. Normally distributed losses exceed it once
    in 10^9 steps; a loss that falls lies below the median and makes no spike; one that stays at a higher level is usual
    after 64 steps.
    """

    def __init__(self) -> None:
        self._losses: collections.deque[float] = collections.deque(maxlen=WINDOW)
        self._outside = False

    def check(self, step: int, loss: float, grad_norm: float) -> Spike | None:
        """Returns the spike that begins at this step, or None; further steps of a spike in a row return None."""
        bound = self._bound()
        spike = None
        if not math.isfinite(loss):
            spike = Spike(step, "loss not finite", loss, grad_norm, bound)
        elif not math.isfinite(grad_norm):
            spike = Spike(step, "gradient not finite", loss, grad_norm, bound)
        elif bound is not None and loss > bound:
            spike = Spike(step, "loss spike", loss, grad_norm, bound)
        if math.isfinite(loss):
            self._losses.append(loss)
        goes_on, self._outside = self._outside, spike is not None
        return None if goes_on else spike

    def _bound(self) -> float | None:
        if len(self._losses) < LEAST:
            return None
        median = statistics.median(self._losses)
        deviation = _NORMAL * statistics.median(abs(loss - median) for loss in self._losses)
        return median + DEVIATIONS * max(deviation, _RESOLUTION * abs(median))
