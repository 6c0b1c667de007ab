"""Optimal pairs: published best sizes N* for budgets C, and the weighted power law through them.

N* = k C^a by least squares in logs, each pair weighted by 1 / sd^2 of its log N*. The standard deviations are taken as
given: the intervals come from draws of every N* about its published value.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from transformer.errors import UserError
from transformer.scaling.laws import bootstrap, csv_file, reading, settings, units
from transformer.scaling.laws.allocation import PairsLaw
from transformer.scaling.laws.columns import of_pairs
from transformer.scaling.laws.law import Fit, Warned
from transformer.scaling.laws.law_file import Fitted
from transformer.scaling.laws.table import RunTable

_WIDE, _NARROW = 5.0, 1e-6
"""Plausible standard deviations of log N*: at most a factor of 150, and at least a millionth."""


class Pairs(NamedTuple):
    """Published optima."""

    flops: np.ndarray
    """[K] C."""
    params: np.ndarray
    """[K] N*."""
    deviations: np.ndarray
    """[K] standard deviation of log N*."""
    columns: tuple[str, str, str] = ("C", "N", "sd")
    """Names of these columns in the file."""
    warned: tuple[Warned, ...] = ()
    """Warnings from reading the file."""

    def table(self) -> RunTable:
        """Returns the pairs as runs of unknown loss, as a law file records its data."""
        unknown = np.full(len(self.flops), np.nan)
        return RunTable(self.params, self.flops / (6 * self.params), unknown, self.flops)


def read(path: str | Path, columns: Sequence[str] = (), log: bool = False, where: Sequence[str] = ()) -> Pairs:
    """Returns the pairs of a CSV file with a header line.

    Args:
      path: the file.
      columns: the names of C, N* and the standard deviation; by default they go by their usual names.
      log: whether the deviation is of log N*, and not of N*.
      where: COLUMN=VALUE, rows to take, as `settings.where`.

    Raises:
      UserError: no such file or column, a value that is no positive number, or units that contradict each other.
    """
    file, _ = settings.where(csv_file.read(path), where)
    names = of_pairs(file, columns)
    flops, params, deviations = reading.numbers(file, names)
    deviations = deviations if log else deviations / params
    pairs = Pairs(flops, params, deviations, names)
    middle = float(np.median(deviations))
    if log and middle > _WIDE:
        raise UserError(f"{file.path}: {names[2]} is {middle:.2g}, too wide for log N*: leave --log-deviation out")
    if not log and middle < _NARROW:
        raise UserError(f"{file.path}: {names[2]} is {middle:.1g} of N*: if it is of log N*, give --log-deviation")
    return pairs._replace(warned=tuple(units.check(str(file.path), pairs.table())))


def fit(pairs: Pairs, count: int = 1000, seed: int = 0) -> Fitted:
    """Returns the weighted power law, with the intervals that the pairs' standard deviations leave.

    The objective is chi^2: the sum of squared errors of log N*, each over its standard deviation.

    Raises:
      UserError: fewer than three pairs, or one budget alone.
    """
    rows = len(pairs.flops)
    if rows < 3:
        raise UserError(f"pairs: a power law has 2 numbers to fit: it needs 3 pairs or more; {rows} here")
    x, y, weights = np.log(pairs.flops), np.log(pairs.params), pairs.deviations**-2.0
    if np.ptp(x) < 1e-3:
        raise UserError(f"pairs: every pair has the same budget, {pairs.flops[0]:.3g} FLOPs; add budgets")
    middle = float(weights @ x / weights.sum())
    scaled = weights * (x - middle) / (weights @ (x - middle) ** 2)

    def laws(log_params: np.ndarray) -> list[PairsLaw]:
        """Returns the laws through [K, R] log N*."""
        exponents = log_params @ scaled
        levels = log_params @ (weights / weights.sum()) - exponents * middle
        return [
            PairsLaw(math.exp(level), a, math.exp(-level) / 6, 1 - a, math.nan, math.nan, math.nan)
            for level, a in zip(levels.tolist(), exponents.tolist(), strict=True)
        ]

    [law] = laws(y[None])
    off = y - math.log(law.k_N) - law.a * x
    chi_squared, freedom = float(weights @ off**2), rows - 2
    probability = float(stats.chi2.sf(chi_squared, freedom))
    warned = list(pairs.warned)
    if probability < 0.01:
        line = (
            f"the pairs are further from the power law than their standard deviations explain: chi^2 {chi_squared:.3g} "
            f"of {freedom} degrees of freedom, p {probability:.1e}; the intervals are too narrow, or the law bends"
        )
        warned.append(Warned("lack-of-fit", line))
    drawn = y + pairs.deviations * np.random.default_rng(seed).standard_normal((count, rows))
    fit = Fit(law, chi_squared, rows, tuple(warned), "chi^2 of log N*")
    return Fitted(fit, bootstrap.Bootstrap(tuple(laws(drawn))), np.array([]))
