"""The lowest point of a valley that a few runs were measured across: ordinary least squares of a parabola in log x."""

import math
from typing import NamedTuple

import numpy as np

from transformer.scaling.laws.law import Warned

_FAR = 1e3
"""A factor beyond the window, from which on a parabola's lowest point is a slope's."""


class Parabola(NamedTuple):
    """loss = depth + curvature * (log x - log lowest)^2, through the points of one valley."""

    lowest: float
    """Where the lowest loss is, in the units of x; NaN where the parabola has no lowest point."""
    depth: float
    """The loss there."""
    curvature: float
    """Nats for a factor of e away from it, squared."""
    error: float
    """Standard error of the curvature; NaN where three points leave nothing to judge it by."""
    smallest: float
    largest: float
    """The window: every x that was measured."""
    squares: float
    """Sum of the squared residuals, nats^2."""

    @property
    def inside(self) -> bool:
        """Whether the lowest point is inside the window: one that is not was never bracketed."""
        return self.smallest < self.lowest < self.largest

    def judge(self, where: str, what: str) -> list[Warned]:
        """Returns what there is to say against the lowest point: nothing if it can be believed.

        Args:
          where: which valley, such as "budget 1e+18".
          what: what x is, such as "sizes".
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
        found = []
        centre = math.sqrt(self.smallest) * math.sqrt(self.largest)
        if abs(math.log(self.lowest / centre)) > 0.25 * math.log(self.largest / self.smallest):
            line = f"{where}: the lowest loss, at {self.lowest:.3g}, is in an outer quarter of {window}; centre them"
            found.append(Warned("off-centre", line))
        if math.isnan(self.error):
            line = (
                f"{where}: the parabola goes through its three points exactly, and nothing tells how well; add {what}"
            )
            found.append(Warned("no-freedom", line))
        elif self.curvature < 2 * self.error:
            line = f"{where}: the curvature over {window} is within two standard errors of none; add {what}, or repeats"
            found.append(Warned("flat-parabola", line))
        return found


def fit(x: np.ndarray, loss: np.ndarray) -> Parabola:
    """Returns the parabola of least squares; the window is all of `x`, and repeats of a point weigh each as one.

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
        # A valley that is nearly a slope has its vertex beyond any float: it is out of the window all the same.
        lowest = float(np.exp(np.clip(middle + half * vertex, -700, 700)))
        depth = float(constant - bend * vertex**2)
    return Parabola(lowest, depth, float(bend / half**2), error / half**2, float(np.min(x)), float(np.max(x)), squares)


def window(x: np.ndarray, loss: np.ndarray, factor: float) -> np.ndarray:
    """Returns a mask of the points within a factor of the lowest loss, and of the nearest six values of x at least.

    It starts around the lowest measured loss and follows the parabola's lowest point until the points stay the same.
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
        # One that is not bracketed is looked for a window further at the most.
        centre = float(np.clip(math.log(valley.lowest), values[0], values[-1]))
    return kept


_NEAREST = 6
"""Values of x that a window has at the least: twice a parabola's numbers."""
_CUBIC = 5
"""Values of x from which a cubic says more than noise."""


def skew(x: np.ndarray, loss: np.ndarray, valley: Parabola) -> float:
    """Returns by how much log `lowest` moves when the valley is a cubic: the parabola's bias, as its points tell it.

    0 where fewer than five values of x, or a cubic with no lowest point among them, do not tell.
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
