"""The bootstrap: a law refitted to runs drawn with replacement, to see how much its numbers depend on the runs.

Runs are drawn whole (Efron 1979; the "pairs" bootstrap), as Besiroglu et al. 2024 do, and intervals are percentiles.
In studies of a known truth no other kind was honest throughout (docs/scaling-laws.md has the figures):
"basic" intervals hold the truth in as few as 70 of 100 studies in place of 95, and drawing residuals, not runs, in
as few as 85 where small runs are noisier than large ones.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from transformer.scaling.laws.law import Law

LEVEL = 0.95
"""Probability that intervals are made for."""

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """A law's refits."""

    laws: tuple[Law, ...]
    failed: int = 0
    """Number of draws whose runs could not be fitted; they are not among the laws, and count as NaN below."""

    def parameters(self) -> dict[str, np.ndarray]:
        """Returns the refits' numbers, [K] by name."""
        rows = [law.parameters() for law in self.laws]
        return {name: self._with_failed([row[name] for row in rows]) for name in rows[0]} if rows else {}

    def standard_errors(self) -> dict[str, float]:
        """Returns the standard deviation of each number over the refits; NaN where most refits lack the number, and
        where a few stray refits make it wider than the whole interval.
        """
        errors = {}
        for name, values in self.parameters().items():
            (low, high), spread = interval(values), _spread(values)
            errors[name] = math.nan if spread > high - low else spread
        return errors

    def intervals(self) -> dict[str, Interval]:
        """Returns the percentile interval of each number; NaN where most refits lack the number."""
        return {name: interval(values) for name, values in self.parameters().items()}

    def losses(self, params: float, tokens: float) -> np.ndarray:
        """Returns [K]: each refit's prediction for one model."""
        return self._with_failed([float(law.loss(params, tokens)) for law in self.laws])

    def allocations(self, flops: float) -> np.ndarray:
        """Returns [K, 3]: each refit's best size and tokens for a budget, and the loss that it predicts for them."""
        rows = [law.best(flops) for law in self.laws]
        return np.stack([self._with_failed([row[column] for row in rows]) for column in range(3)], 1)

    def _with_failed(self, values: list[float]) -> np.ndarray:
        return np.array([*values, *[np.nan] * self.failed], np.float64)


def draws(rows: int, count: int, seed: int) -> np.ndarray:
    """Returns [count, rows] int: rows drawn with replacement."""
    return np.random.default_rng(seed).integers(0, rows, (count, rows))


def counts(drawn: np.ndarray) -> np.ndarray:
    """Returns [K, R]: how often each of R rows is in each of K draws of R."""
    return np.stack([np.bincount(each, minlength=drawn.shape[1]) for each in drawn]).astype(np.float64)


def interval(values: np.ndarray | Sequence[float], level: float = LEVEL) -> Interval:
    """Returns the percentiles that leave the same share on either side; NaN where at most half of the values are known,
    or where all are the same, which says nothing about the uncertainty.
    """
    known = _known(np.asarray(values))
    if known is None:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def of_vectors(law: type[Law], vectors: Mapping[str, Sequence[float]], failed: int = 0) -> Bootstrap:
    """Returns the bootstrap whose refits have these numbers, [K] for each of the law's fields."""
    names = [field.name for field in dataclasses.fields(law)]
    rows = zip(*(vectors[name] for name in names), strict=True)
    return Bootstrap(tuple(law(**dict(zip(names, row, strict=True))) for row in rows), failed)


def _spread(values: np.ndarray) -> float:
    known = _known(values)
    if known is None:
        return float("nan")
    with np.errstate(over="ignore"):  # of a stray refit; `standard_errors` says that nothing is known
        return float(known.std(ddof=1))


def _known(values: np.ndarray) -> np.ndarray | None:
    """Returns the finite values; None where at most half are finite, or where all are the same but for rounding."""
    known = values[np.isfinite(values)]
    if 2 * len(known) <= len(values) or len(known) < 2 or np.ptp(known) <= 1e-14 * np.abs(known).max():
        return None
    return known
