"""Checks of a fitted law: outliers, runs that decide alone, noise, drift, wide intervals."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from transformer.errors import UserError
from transformer.scaling.laws import parametric, words
from transformer.scaling.laws.bootstrap import Bootstrap
from transformer.scaling.laws.kaplan import Kaplan
from transformer.scaling.laws.law import Allocation, Law, Warned
from transformer.scaling.laws.parametric import Chinchilla
from transformer.scaling.laws.repeat import Repeat
from transformer.scaling.laws.table import RunTable

_FAR, _LEAST = 6.0, 0.01
"""Least residual of an outlier: in robust standard deviations, and as a share of its loss."""
_MOVED = 0.05
"""Change of `a` that matters: it moves the best size three decades out by 41 %."""


class Influence(NamedTuple):
    """The effect of leaving out one run, for the runs that matter most."""

    row: str
    a: float
    """The exponent of N*(C) without it."""
    loss_row: str
    loss: float
    """Relative change, without `loss_row`, of the best model's loss a decade beyond the largest budget."""


class Outliers(NamedTuple):
    """Runs far off the law, and the law without them."""

    rows: tuple[str, ...]
    law: Law | None
    """None where there are none, or too few runs are left."""


class LackOfFit(NamedTuple):
    """Whether the law is further from the cells' means than the noise of their repeats explains."""

    noise: float
    """Standard deviation of log loss between runs of a cell."""
    degrees: int
    """Degrees of freedom of the noise."""
    ratio: float
    """F: mean square of lack of fit over mean square of noise."""
    probability: float
    """Probability of a ratio as large, if the law were true."""


class Drift(NamedTuple):
    """The law that the smaller budgets alone give, held to the larger: losses extrapolate, allocations drift."""

    below: float
    """FLOPs below which runs were fitted."""
    fitted: int
    predicted: int
    error: float
    """Mean relative error of the predicted losses of the other runs."""
    a_before: float
    a_after: float


def of_table(table: RunTable) -> list[Warned]:
    """Returns warnings about a table, whatever the law."""
    warned = []
    if len(table) < 3 * parametric.NUMBERS:
        line = f"{words.count(len(table), 'run')}: 15 and more say how sure the numbers are, fewer hardly do; add runs"
        warned.append(Warned("too-few-runs", line))
    if np.ptp(np.log(table.flops)) < np.log(1.2):
        line = f"every run costs about {table.flops[0]:.3g} FLOPs: what changes with the budget is a guess; add budgets"
        warned.append(Warned("one-budget", line))
    repeated = 0 if table.unique_tokens is None else int(np.sum(table.tokens > table.unique_tokens))
    if repeated:
        line = f"{words.count(repeated, 'run')} read tokens twice, which only the law `repeat` knows of"
        warned.append(Warned("repeated-tokens", line))
    return warned


def residuals(table: RunTable, law: Law) -> np.ndarray:
    """Returns [R] log loss less the law's; NaN where the law predicts no loss."""
    return np.log(table.loss) - np.log(law.predict(table))


def exponent(law: Law) -> float:
    """Returns the fitted exponent a of N* ~ C^a; NaN where the form has none.

    The over-training law's best size grows as C^0.5 whatever the runs say, and its `a` is a factor.
    """
    return law.a if isinstance(law, Chinchilla | Kaplan | Repeat) else math.nan


def outliers(table: RunTable, law: Law, fit: Callable[[RunTable], Law]) -> Outliers:
    """Returns the runs far off the law, by the median absolute deviation, and what `fit` makes of the others."""
    off = residuals(table, law)
    spread = 1.4826 * float(np.median(np.abs(off - np.median(off))))
    far = np.abs(off) > max(_FAR * spread, _LEAST)
    if not far.any():
        return Outliers((), None)
    rows = tuple(name_of(table, int(row)) for row in np.flatnonzero(far))
    try:
        return Outliers(rows, fit(table.take(~far)))
    except UserError:
        return Outliers(rows, None)


def influence(table: RunTable, law: Law, resampled: Callable[[np.ndarray], list[Any]]) -> Influence:
    """Returns the runs without which `a`, and a predicted loss, change most.

    Args:
      table: [R] runs.
      law: fitted to them.
      resampled: fits the law with runs counted as [K, R] says.
    """
    without = resampled(1.0 - np.eye(len(table)))
    flops = 10 * float(table.flops.max())
    best = law.optimum(flops)
    if math.isnan(best.params):  # the form has no best size: take the largest run's loss
        largest = int(np.argmax(table.flops))
        best = Allocation(float(table.params[largest]), float(table.tokens[largest]))
    ours, moves = exponent(law), np.array([exponent(other) for other in without])
    losses = np.array([float(other.loss(*best)) for other in without]) / float(law.loss(*best)) - 1
    row, loss_row = (int(np.argmax(np.nan_to_num(np.abs(move)))) for move in (moves - ours, losses))
    return Influence(name_of(table, row), float(moves[row]), name_of(table, loss_row), float(losses[loss_row]))


def lack_of_fit(table: RunTable, law: Law, numbers: int) -> LackOfFit | None:
    """Returns the F test of a law with so many numbers against the noise of repeats; None where no cell has any.

    Draper and Smith 1998, "Applied Regression Analysis", section 2.1: pure error and lack of fit, of log loss. Runs of
    a cell whose losses agree to the last digit are copies of one run, and say nothing of the noise.
    """
    _, kept = np.unique(np.stack([table.cells(), table.loss]), axis=1, return_index=True)
    table = table.take(np.sort(kept))
    cell = table.cells()
    size = np.bincount(cell)
    off = residuals(table, law)
    mean = np.bincount(cell, off) / size
    degrees, freedom = len(off) - len(size), len(size) - numbers
    if degrees == 0 or freedom < 1:
        return None
    noise = float(np.sum((off - mean[cell]) ** 2)) / degrees
    ratio = float(np.sum(size * mean**2)) / freedom / max(noise, 1e-30)
    return LackOfFit(noise**0.5, degrees, ratio, float(stats.f.sf(ratio, freedom, degrees)))


def drift(table: RunTable, law: Law, fit: Callable[[RunTable], Law], below: float | None = None) -> Drift | None:
    """Returns how well the runs below a budget predict the others; None where too few are below to be fitted.

    Args:
      table: runs.
      law: fitted to all of them.
      fit: fits the same law to others.
      below: FLOPs; by default the median, so that half of the runs predict the other half.
    """
    below = float(np.median(table.flops)) if below is None else below
    small = table.flops < below
    if small.all():
        return None
    try:
        before = fit(table.take(small))
    except UserError:
        return None
    others = table.take(~small)
    error = float(np.nanmean(np.abs(before.predict(others) / others.loss - 1)))
    return Drift(below, int(small.sum()), len(others), error, exponent(before), exponent(law))


def of_bootstrap(bootstrap: Bootstrap) -> list[Warned]:
    """Returns warnings about failed refits and wide intervals."""
    warned = []
    count = len(bootstrap.laws) + bootstrap.failed
    if bootstrap.failed > 0.05 * count:
        rest = "the intervals are of the others" if 2 * bootstrap.failed < count else "there are no intervals"
        line = f"{bootstrap.failed} of {count} draws of the runs could not be fitted: {rest}"
        warned.append(Warned("bootstrap-failed", line))
    intervals = bootstrap.intervals()
    wide = [
        f"{name} {low:.3g} to {high:.3g}"
        for name, (low, high) in intervals.items()
        if (name in EXPONENTS and high > 3 * low) or (name in SHARES and high <= 1 and high - low > 0.3)
    ]
    if wide:
        line = f"these runs hardly say: {', '.join(wide)} (95 %); add sizes, tokens and budgets further apart"
        warned.append(Warned("unidentified", line))
    return warned


EXPONENTS = "alpha", "beta", "alpha_N", "alpha_D", "eta"
"""Exponents of the loss; unidentified where the interval's ends are a factor of three apart."""
SHARES = ("a",)
"""Exponents of an allocation, from 0 to 1 (the over-training law's `a` is a coefficient, far above)."""


def of_findings(
    law: Law,
    error: float,
    found: Outliers,
    moved: Influence,
    misfit: LackOfFit | None,
    drifted: Drift | None,
) -> list[Warned]:
    """Returns the warnings that findings call for; `error` is the standard error of a, or NaN."""
    warned, ours = [], exponent(law)
    if found.rows:
        shown = ", ".join(found.rows[:5]) + (f" and {len(found.rows) - 5} more" if len(found.rows) > 5 else "")
        change = "; too few runs are left without" if found.law is None else ""
        if found.law is not None and not math.isnan(ours):
            change = f"; without, a is {exponent(found.law):.3f}, not {ours:.3f}"
        warned.append(Warned("outliers", f"{words.count(len(found.rows), 'run')} far off the law: {shown}{change}"))
    if misfit is not None and misfit.probability < 0.01:
        line = (
            f"the law misses the cells' means by more than their noise of {misfit.noise:.2%} explains: F "
            f"{misfit.ratio:.3g}, p {misfit.probability:.1e}; its form does not hold here to that precision"
        )
        warned.append(Warned("lack-of-fit", line))
    if abs(moved.a - ours) > _MOVED:
        line = f"{moved.row} alone decides: without it a is {moved.a:.3f}, not {ours:.3f}"
        warned.append(Warned("influential-run", line))
    # Half of the runs say less than all: only what their noise does not explain is a drift.
    if drifted is not None and abs(drifted.a_after - drifted.a_before) > np.fmax(_MOVED, 3 * error):
        line = (
            f"a moved from {drifted.a_before:.3f} to {drifted.a_after:.3f} as runs above {drifted.below:.3g} FLOPs "
            f"were added, whose losses were predicted to {drifted.error:.2%}: trust losses before allocations"
        )
        warned.append(Warned("allocation-drift", line))
    return warned


def name_of(table: RunTable, row: int) -> str:
    """Returns the name of a row in messages."""
    return table.names[row] if table.names else f"row {row}"
