"""Optimal pairs: the best size N* of budgets C as somebody published them, and the weighted power law through them.

N* = k C^a by least squares in logs, each pair weighted by 1 / sd^2 of its log N*. The standard deviations are taken as
given: the intervals are what they leave open, of draws of every N* about its published value.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from transformer.errors import UserError
from transformer.scaling.laws import bootstrap, reading
from transformer.scaling.laws.allocation import PairsLaw
from transformer.scaling.laws.law import Fit, Warned
from transformer.scaling.laws.law_file import Fitted
from transformer.scaling.laws.table import Table


class Pairs(NamedTuple):
    """Published optima."""

    flops: np.ndarray
    """[K] C."""
    params: np.ndarray
    """[K] N*."""
    deviations: np.ndarray
    """[K] standard deviation of log N*."""

    def table(self) -> Table:
        """Returns them as runs of unknown loss: what a law file says of its data."""
        unknown = np.full(len(self.flops), np.nan)
        return Table(self.params, self.flops / (6 * self.params), unknown, self.flops)


def read(path: str | Path, columns: Sequence[str], log: bool = False) -> Pairs:
    """Returns the pairs of a CSV file with a header line.

    Args:
      path: the file.
      columns: the names of C, N* and the standard deviation.
      log: whether the deviation is of log N*, and not of N*.

    Raises:
      UserError: no such file or column, or a value that is no positive number.
    """
    path = Path(path).expanduser()
    if len(columns) != 3:
        raise UserError(f"--pair-columns takes three names, of C, N* and its standard deviation; {len(columns)} given")
    header, rows = reading.rows(path)
    missing = [name for name in columns if header.count(name) != 1]
    if missing:
        raise UserError(
            f"{path}: no single column {', '.join(map(repr, missing))}; it has: {', '.join(header)}; "
            "name those of C, N* and its standard deviation with --pair-columns"
        )
    values = np.empty((len(rows), 3))
    for at, (number, row) in zip(values, rows, strict=True):
        if len(row) != len(header):
            raise UserError(f"{path}, line {number}: {len(row)} cells under a header of {len(header)}")
        for k, name in enumerate(columns):
            at[k] = reading.number_of(f"{path}, line {number}: {name}", row[header.index(name)].strip())
    flops, params, deviations = values.T
    return Pairs(flops, params, deviations if log else deviations / params)


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
    warned = []
    if probability < 0.01:
        line = (
            f"the pairs are further from the power law than their standard deviations explain: chi^2 {chi_squared:.3g} "
            f"of {freedom} degrees of freedom, p {probability:.1e}; the intervals are too narrow, or the law bends"
        )
        warned.append(Warned("lack-of-fit", line))
    drawn = y + pairs.deviations * np.random.default_rng(seed).standard_normal((count, rows))
    fit = Fit(law, chi_squared, rows, tuple(warned), "chi^2 of log N*")
    return Fitted(fit, bootstrap.Bootstrap(tuple(laws(drawn))), np.array([]))
