"""Parabolas in log x, by ordinary least squares: the lowest point of a valley that a few runs were measured across."""

import math
from typing import NamedTuple

import numpy as np

from transformer.scaling.laws.law import Warned

_FAR = 1e3
"""Factor beyond the window from which on a parabola's lowest point says only that the data slope."""


class Parabola(NamedTuple):
    """loss = depth + curvature * (log x - log lowest)^2, through the points of one valley."""

    lowest: float
    """The x of the lowest loss; NaN where the parabola has no lowest point."""
    depth: float
    """The loss there."""
    curvature: float
    """Nats per squared unit of log x."""
    error: float
    """Standard error of the curvature; NaN with three points, which leave no degree of freedom."""
    smallest: float
    largest: float
    """The window: the largest measured x, as `smallest` is the smallest."""
    squares: float
    """Sum of the squared residuals, nats^2."""

    @property
    def inside(self) -> bool:
        """Whether the lowest point is inside the window: one that is not was never bracketed."""
        return self.smallest < self.lowest < self.largest

    def warnings(self, where: str, what: str) -> list[Warned]:
        """Returns the warnings about the lowest point; none if it can be believed.

        Args:
          where: the valley, such as "budget 1e+18".
          what: the plural name of x, such as "sizes".
        """
        window = f"{what} {self.smallest:.3g} to {self.largest:.3g}"
        if self.curvature <= 0:
            line = f"{where}: the parabola opens downwards over {window}; left out; look for a diverged run"
            return [Warned("non-convex-parabola", line)]
        if not self.inside:
            side = "smaller" if self.lowest <= self.smallest else "larger"
            near = self.smallest / _FAR < self.lowest < self.largest * _FAR  # beyond, the number says nothing
            at = f", at {self.lowest:.3g}," if near else ""
            line = f"{where}: the lowest loss{at} is not inside {window}; left out; add {side} {what}"
            return [Warned("minimum-at-edge", line)]
        warned = []
        centre = math.sqrt(self.smallest) * math.sqrt(self.largest)
        if abs(math.log(self.lowest / centre)) > 0.25 * math.log(self.largest / self.smallest):
            line = f"{where}: the lowest loss, at {self.lowest:.3g}, is in an outer quarter of {window}; centre them"
            warned.append(Warned("off-centre", line))
        if math.isnan(self.error):
            line = (
                f"{where}: the parabola goes through its three points exactly, and nothing tells how well; add {what}"
            )
            warned.append(Warned("no-freedom", line))
        elif self.curvature < 2 * self.error:
            line = f"{where}: the curvature over {window} is within two standard errors of none; add {what}, or repeats"
            warned.append(Warned("flat-parabola", line))
        return warned


def fit(x: np.ndarray, loss: np.ndarray) -> Parabola:
    """Returns the parabola of least squares; the window is all of `x`, and each repeat of a point weighs as one.

    Args:
      x: [R], positive, three values of it or more.
      loss: [R], nats.
    """
    log_x = np.log(x)
    low, high = log_x.min(), log_x.max()
    middle, half = (low + high) / 2, (high - low) / 2
    scaled = (log_x - middle) / half  # in [-1, 1]: the normal equations are well conditioned
    design = np.stack([np.ones_like(scaled), scaled, scaled**2], axis=1)
    inverse = np.linalg.inv(design.T @ design)
    constant, slope, bend = inverse @ (design.T @ loss)
    squares = float(np.sum((design @ (constant, slope, bend) - loss) ** 2))
    freedom = len(loss) - 3
    error = math.sqrt(squares / freedom * inverse[2, 2]) if freedom else math.nan
    lowest, depth = math.nan, math.nan
    if bend > 0:
        vertex = -slope / (2 * bend)
        # The vertex of a nearly straight line may be beyond any float: it is outside the window all the same.
        lowest = float(np.exp(np.clip(middle + half * vertex, -700, 700)))
        depth = float(constant - bend * vertex**2)
    return Parabola(lowest, depth, float(bend / half**2), error / half**2, float(np.min(x)), float(np.max(x)), squares)


def window(x: np.ndarray, loss: np.ndarray, factor: float) -> np.ndarray:
    """Returns a mask of the points within a factor of the lowest loss, at least the nearest six values of x.

    The window starts around the lowest measured loss and follows the parabola's lowest point until it stays the same.
    """
    log_x = np.log(x)
    values, place = np.unique(log_x, return_inverse=True)
    means = np.bincount(place, loss) / np.bincount(place)
    centre = float(values[np.argmin(means)])
    kept, seen = np.zeros(len(x), bool), []
    for _ in range(20):
        reach = max(math.log(factor), float(np.sort(np.abs(values - centre))[:_NEAREST][-1]))
        last, kept = kept, np.abs(log_x - centre) <= reach * (1 + 1e-9)
        if np.array_equal(last, kept) or any(np.array_equal(kept, each) for each in seen):
            break
        seen.append(kept)
        valley = fit(x[kept], loss[kept])
        if not valley.curvature > 0:
            break
        # A lowest point beyond the measured values moves the window to their end at most.
        centre = float(np.clip(math.log(valley.lowest), values[0], values[-1]))
    return kept


_NEAREST = 6
"""Least number of values of x in a window: twice a parabola's parameters."""
_CUBIC = 5
"""Least number of values of x with which a cubic says more than noise."""


def skew(x: np.ndarray, loss: np.ndarray, valley: Parabola) -> float:
    """Returns the shift of log `lowest` when a cubic takes the parabola's place: an estimate of the parabola's bias.

    It is 0 with fewer than five values of x, or where the cubic has no lowest point among them.
    """
    if not valley.inside or len(np.unique(x)) < _CUBIC:
        return 0.0
    at = np.log(x / valley.lowest)
    reach = float(np.abs(at).max())
    cubic, square, slope, _ = np.polyfit(at / reach, loss, 3)
    root = square**2 - 3 * cubic * slope
    if root <= 0:
        return 0.0
    # The root of the derivative where the cubic bends upwards, without the difference of like numbers.
    moved = reach * -slope / (square + math.sqrt(root)) if square > 0 else math.inf
    return float(moved) if at.min() < moved < at.max() else 0.0
