"""Envelope: the size of the lowest loss curve at every budget, and how that size grows with the budget.

Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", section 3.1 (approach 1). A loss curve is the
rows of one size: points of one run's training, or the final losses of runs of several lengths, each with its own
schedule. The second is what to compare: in the middle of its schedule a run is worse than a shorter run at its end.

Unlike the paper's, it counts only budgets at which sizes well to both sides of the best were measured: where the
smallest size is best for want of a smaller one, the envelope shows the choice of runs. Sizes come in steps, so the
exponents are rough; and under noise the lowest curve is low by luck, for which its loss is not corrected.
"""

import dataclasses
from typing import ClassVar

import numpy as np
from scipy.interpolate import PchipInterpolator

from transformer.errors import UserError
from transformer.scaling.laws import allocation
from transformer.scaling.laws.allocation import AllocationLaw, Optima
from transformer.scaling.laws.how import How
from transformer.scaling.laws.law import Fit, Warned
from transformer.scaling.laws.table import RunTable

_POINTS = 1500
"""Budgets, evenly in log, at which the curves are compared: the paper's number."""

_SAME = 0.01
"""Sizes within this share of the next are one size: a table may be read off a figure."""

_MARGIN = 1.5
"""Factor below and above the best size that the measured sizes must reach."""

_SHORTEST = 2.0
"""Shortest range of budgets that an exponent is read from: less shows only the step from one size to the next."""


@dataclasses.dataclass(frozen=True)
class Envelope(AllocationLaw):
    """The law of approach 1."""

    name: ClassVar[str] = "envelope"


def curves(table: RunTable) -> list[np.ndarray]:
    """Returns the rows of every size that was measured at two budgets or more, by rising size."""
    order = np.argsort(table.params, kind="stable")
    steps = np.flatnonzero(np.diff(np.log(table.params[order])) > np.log1p(_SAME)) + 1
    return [rows for rows in np.split(order, steps) if len(np.unique(table.flops[rows])) >= 2]


def optima(table: RunTable) -> Optima:
    """Returns the envelope at the budgets where sizes reach far enough to both sides of it; there may be none.

    Between its points a curve is a monotone cubic of log loss in log C. The fitted N*(C) decides which budgets count,
    until it stays the same: if each budget's own best decided, those whose noise points inwards would be kept.

    Raises:
      UserError: fewer than three sizes have a curve.
    """
    curve_rows = curves(table)
    if len(curve_rows) < 3:
        raise UserError(
            "envelope needs the loss curves of three sizes or more, at two budgets or more each; "
            f"{len(curve_rows)} here; give rows of the same size at several numbers of tokens, or fit --law isoflop "
            "or chinchilla"
        )
    every = np.concatenate(curve_rows)
    log_c = np.linspace(np.log(table.flops[every].min()), np.log(table.flops[every].max()), _POINTS)
    loss_sc, tokens_sc = np.empty((2, len(curve_rows), _POINTS))
    for loss_c, tokens_c, rows in zip(loss_sc, tokens_sc, curve_rows, strict=True):
        at, place = np.unique(np.log(table.flops[rows]), return_inverse=True)
        curve = np.bincount(place, np.log(table.loss[rows])) / np.bincount(place)
        loss_c[:] = PchipInterpolator(at, curve, extrapolate=False)(log_c)
        tokens_c[:] = np.interp(log_c, at, np.bincount(place, np.log(table.tokens[rows])) / np.bincount(place))
    log_n = np.array([np.log(table.params[rows]).mean() for rows in curve_rows])
    known = ~np.isnan(loss_sc)
    best = np.argmin(np.where(known, loss_sc, np.inf), axis=0)
    smallest = np.where(known, log_n[:, None], np.inf).min(axis=0)
    largest = np.where(known, log_n[:, None], -np.inf).max(axis=0)
    kept = (smallest < log_n[best]) & (log_n[best] < largest)
    for _ in range(20):
        if len(np.unique(best[kept])) < 2:
            kept[:] = False
            break
        expected = np.polyval(np.polyfit(log_c[kept], log_n[best[kept]], 1), log_c)
        last, kept = kept, (smallest + np.log(_MARGIN) < expected) & (expected < largest - np.log(_MARGIN))
        if np.array_equal(last, kept):
            break
    best, points = best[kept], np.flatnonzero(kept)
    return Optima(*np.exp([log_c[points], log_n[best], tokens_sc[best, points], loss_sc[best, points]]))


def fit(table: RunTable, how: How = How()) -> Fit:
    """Fits N*(C), D*(C) and L*(C) to the envelope; nothing in `how` applies.

    The objective is the mean square of log N* about its power law, over the budgets compared.

    Raises:
      UserError: fewer than three sizes have a loss curve, fewer than two are ever the best among others, or only over
        a short range of budgets, or the lowest loss does not fall as the budget grows.
    """
    how.check("envelope", [])
    best = optima(table)
    winners = len(np.unique(best.params))
    if winners < 2:
        raise UserError(
            "envelope: no two sizes are ever the best where both smaller and larger ones were measured; add sizes, or "
            "longer runs of the small and shorter runs of the large"
        )
    span = float(best.flops.max() / best.flops.min())
    if span < _SHORTEST:
        raise UserError(
            f"envelope: sizes were measured to both sides of the best over budgets that span {span:.2f} times alone, "
            "which says no exponent; add sizes, or longer runs of the small and shorter runs of the large"
        )
    allocation.require_falling(best, "envelope")
    fields, warned = allocation.growth(best)
    law = Envelope(**fields)
    first = []
    left = 1 - len(best.flops) / _POINTS
    if left > 0.75:
        line = f"{left:.0%} of the range of FLOPs has no sizes measured to both sides of the best, and was left out"
        first.append(Warned("minimum-at-edge", line))
    if winners < 5:
        line = f"{winners} sizes alone are ever the best: the exponents follow the steps between them; add sizes"
        first.append(Warned("few-sizes", line))
    misfit = np.log(best.params / law.k_N) - law.a * np.log(best.flops)
    return Fit(law, float(np.mean(misfit**2)), sum(map(len, curves(table))), (*first, *warned))
