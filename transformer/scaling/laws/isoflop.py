"""IsoFLOP: the size at the bottom of a parabola at each budget, and how that size grows with the budget.

Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", section 3.2 (approach 2). It assumes no form of
the loss, and so it is biased: a parabola is not the loss, the less so the wider the sizes spread (Czech et al. 2026,
"Problems with Chinchilla Approach 2"). For E + A/N^.34 + B/D^.28 and sizes within 16 times of the best, D* three
decades out is 5 % low; for exponents .465 and .155 and 8 times, 14 %. So a parabola sees the sizes within a window of
its lowest point (`How.window`), at least the six nearest; a cubic through the same sizes estimates the bias that is
left, and the intervals cover it (`SHARES`).
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws import allocation, parabola, words
from transformer.scaling.laws.allocation import AllocationLaw, Optima
from transformer.scaling.laws.how import WINDOW, How
from transformer.scaling.laws.law import Fit, Warned
from transformer.scaling.laws.parabola import Parabola
from transformer.scaling.laws.table import RunTable

TOLERANCE = 0.05
"""Relative distance from a budget's middle within which runs belong to it."""


@dataclasses.dataclass(frozen=True)
class IsoFLOP(AllocationLaw):
    """The law of approach 2."""

    name: ClassVar[str] = "isoflop"


class Profile(NamedTuple):
    """The runs of one budget, and the parabola through them."""

    flops: float
    """Geometric mean of the rows' FLOPs."""
    rows: np.ndarray
    """[R_k] int: places of the runs in the table."""
    valley: Parabola
    """Parabola of the loss over the size, within the window."""
    skew: float
    """Shift of log N* when a cubic takes the parabola's place."""
    used: int
    """Number of rows within the window."""
    tokens: float
    """D*: tokens that runs of this budget read at the size of the lowest loss; C / (6 N*) where C = 6 N D."""


def budgets(table: RunTable, tolerance: float = TOLERANCE) -> list[np.ndarray]:
    """Returns the rows of every budget with three sizes or more, by rising FLOPs.

    A budget is the window of FLOPs, `tolerance` to either side, that holds the most rows; then the next among the
    rows that are left. So a grid is found among other runs.
    """
    order = np.argsort(table.flops, kind="stable")
    log_flops = np.log(table.flops[order])
    width = 2 * math.log1p(tolerance)
    grid = []
    while len(order):
        counts = np.searchsorted(log_flops, log_flops + width, side="right") - np.arange(len(order))
        first = int(np.argmax(counts))
        taken = slice(first, first + int(counts[first]))
        if counts[first] < 3:
            break
        if len(np.unique(table.params[order[taken]])) >= 3:
            grid.append(np.sort(order[taken]))
        order, log_flops = np.delete(order, taken), np.delete(log_flops, taken)
    return sorted(grid, key=lambda rows: float(np.mean(np.log(table.flops[rows]))))


SHARES = -0.1, 1.5
"""Shares of the cubic's shift that refits apply, spread evenly: from slightly against it to half as much again."""


def profiles(table: RunTable, tolerance: float = TOLERANCE, window: float = WINDOW) -> list[Profile]:
    """Returns the parabola of every budget, those with a minimum at the edge too."""
    fitted = []
    for rows in budgets(table, tolerance):
        params, tokens = table.params[rows], table.tokens[rows]
        near = parabola.window(params, table.loss[rows], window)
        valley = parabola.fit(params[near], table.loss[rows][near])
        k, exponent = allocation.power(params, tokens)
        best = k * valley.lowest**exponent
        skew = parabola.skew(params[near], table.loss[rows][near], valley)
        fitted.append(
            Profile(float(np.exp(np.log(table.flops[rows]).mean())), rows, valley, skew, int(near.sum()), best)
        )
    return fitted


def resample(table: RunTable, rng: np.random.Generator, tolerance: float = TOLERANCE) -> np.ndarray:
    """Returns rows drawn with replacement within each budget, as many as it has: a bootstrap that keeps the grid.

    A budget is drawn again until it has three sizes, without which it has no parabola.
    """
    drawn = []
    for rows in budgets(table, tolerance):
        draw = rng.choice(rows, len(rows))
        while len(np.unique(table.params[draw])) < 3:
            draw = rng.choice(rows, len(rows))
        drawn.append(draw)
    return np.concatenate(drawn)


def fit(table: RunTable, how: How = How(), tolerance: float = TOLERANCE, share: float = 0.0) -> Fit:
    """Fits N*(C), D*(C) and L*(C) to the parabolas' lowest points; one outside its sizes is left out.

    The objective is the sum of the parabolas' squared residuals, nats^2.

    Args:
      table: runs.
      how: the window; nothing can be fixed.
      tolerance: as `TOLERANCE`.
      share: the share of the cubics' shift that N* is moved by (`SHARES`).

    Raises:
      UserError: fewer than two budgets have a lowest point inside their sizes, or their losses do not fall as the
        budget grows.
    """
    how.check("isoflop", [])
    all_profiles = profiles(table, tolerance, how.window)
    if not all_profiles:
        raise UserError(
            f"isoflop needs budgets of three sizes or more; no window of FLOPs {2 * tolerance:.0%} wide has them in "
            f"these {words.count(len(table), 'row')}; fit --law chinchilla, which needs no grid"
        )
    verdicts = [each.valley.warnings(f"budget {each.flops:.3g}", "sizes") for each in all_profiles]
    good = [each for each in all_profiles if each.valley.inside]
    if not good:
        codes = [warned[0].code for warned in verdicts]
        raise UserError(
            f"isoflop: of {words.count(len(all_profiles), 'budget')} none has its lowest loss inside its sizes "
            f"({codes.count('minimum-at-edge')} at the edge, {codes.count('non-convex-parabola')} open downwards); "
            + verdicts[0][0].message
        )
    if len(good) == 1:
        raise UserError(
            f"isoflop: one budget, {good[0].flops:.3g} FLOPs, has its lowest loss inside its sizes (at "
            f"{good[0].valley.lowest:.3g}): that says nothing of how sizes grow with the budget; add a budget"
        )
    optima = _optima(good, share)
    allocation.require_falling(optima, "isoflop")
    fields, warned = allocation.growth(optima)
    warned = [warning for verdict in verdicts for warning in verdict] + _of_the_grid(table, all_profiles, good) + warned
    warned += _bias(table, good, IsoFLOP(**fields))
    used = sum(each.used for each in good)
    return Fit(IsoFLOP(**fields), sum(each.valley.squares for each in good), used, tuple(warned))


def _of_the_grid(table: RunTable, profiles: list[Profile], good: list[Profile]) -> list[Warned]:
    """Returns warnings about the budgets together."""
    warned = []
    if len(good) == 2:
        line = "two budgets: the exponents go through both points exactly, and nothing tells how well; add a budget"
        warned.append(Warned("no-freedom", line))
    left = len(table) - sum(len(each.rows) for each in profiles)
    if left:
        line = f"{left} of {len(table)} rows belong to no budget of three sizes or more; they were left out"
        warned.append(Warned("rows-left-out", line))
    return warned


def _optima(good: list[Profile], share: float) -> Optima:
    """Returns the lowest points, moved by a share of the cubics' shift: along a budget D* falls as N* grows."""
    moves = np.exp([share * each.skew for each in good])
    return Optima(
        np.array([each.flops for each in good]),
        np.array([each.valley.lowest for each in good]) * moves,
        np.array([each.tokens for each in good]) / moves,
        np.array([each.valley.depth for each in good]),
    )


def _bias(table: RunTable, good: list[Profile], law: IsoFLOP) -> list[Warned]:
    """Returns a warning where cubics put D* elsewhere than the parabolas, a decade beyond the largest budget."""
    flops = 10 * float(table.flops.max())
    k, exponent = allocation.power(*_optima(good, 1.0)[:3:2])
    off = law.optimum(flops).tokens / (k * flops**exponent) - 1
    if abs(off) < _BIASED:
        return []
    line = (
        f"a parabola is not the loss: cubics through the same sizes put D* at {flops:.3g} FLOPs "
        f"{1 / (1 + off) - 1:+.1%} from the parabolas' (the intervals hold both); "
        "give a narrower --isoflop-window, or compare --law envelope"
    )
    return [Warned("wide-window", line)]


_BIASED = 0.02
"""Relative change of D* that matters."""
