"""Fitting a law to a table, with its uncertainty and warnings: what the command `fit` does."""

import dataclasses
import math
from typing import Any

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws import diagnostics, methods
from transformer.scaling.laws.bootstrap import Bootstrap
from transformer.scaling.laws.descent import ParametricFit, Tick
from transformer.scaling.laws.how import How
from transformer.scaling.laws.law import LEAST_FALL, Fit, Law, Warned
from transformer.scaling.laws.law_file import Fitted, Goodness
from transformer.scaling.laws.table import RunTable

_WEIGHT = (
    "units",
    "several-settings",
    "copied-rows",
    "not-converged",
    "unidentified",
    "parameter-at-bound",
    "one-budget",
    "too-few-runs",
    "bootstrap-failed",
    "runner-up",
    "outliers",
    "influential-run",
    "lack-of-fit",
    "allocation-drift",
    "ill-conditioned",
)
"""Codes of warnings, the gravest first; those of single laws come after these."""


def fit(
    table: RunTable, law: str, count: int = 1000, seed: int = 0, how: How = How(), tick: Tick | None = None
) -> Fitted:
    """Returns a law fitted to a table, and refitted to `count` draws of its runs; `tick` counts the draws.

    Raises:
      UserError: the table says nothing of this law, or there is no such law.
    """
    with methods.refusing(law):
        return _fit(table, law, count, seed, how, tick)


def _fit(table: RunTable, law: str, count: int, seed: int, how: How, tick: Tick | None) -> Fitted:
    fitted = methods.method(law).fit(table, how)
    _require_falling(table, fitted.law)
    refits = methods.resample(table, fitted, count, seed, how, tick) if count else Bootstrap(())
    off = diagnostics.residuals(table, fitted.law)
    off = off[np.isfinite(off)]
    warned = [*table.warned, *diagnostics.of_table(table), *fitted.warnings]
    findings: dict[str, Any] = {}
    if isinstance(fitted, ParametricFit):
        more, findings = _examine(table, fitted, refits, how)
        warned += more
    warned += diagnostics.of_bootstrap(refits)
    if law == "repeat":
        warned = [each for each in warned if each.code != "repeated-tokens"]
    warned.sort(key=lambda each: _WEIGHT.index(each.code) if each.code in _WEIGHT else len(_WEIGHT))
    plain = Fit(fitted.law, fitted.objective, fitted.rows, tuple(warned), fitted.minimised, tuple(how.fixed))
    return Fitted(plain, refits, off, findings, _goodness(table, fitted.law))


def _goodness(table: RunTable, law: Law) -> Goodness:
    """Returns how well a law describes the rows that it predicts a loss for; NaN where there are none."""
    off = diagnostics.residuals(table, law)
    known = np.isfinite(off)
    if known.sum() < 2:
        return Goodness(math.nan, math.nan)
    spread = float(np.var(np.log(table.loss[known])))
    mean = float(np.mean(off[known] ** 2))
    return Goodness(1 - mean / spread if spread > 0 else math.nan, mean**0.5)


def _require_falling(table: RunTable, law: Law) -> None:
    """Raises UserError, which names the columns, where the loss hardly falls with a column that the law reads."""
    words = {"params": "the size", "tokens": "the number of tokens"}
    flat = []
    for column in law.reads:
        values = getattr(table, column)
        ends = [
            law.predict(dataclasses.replace(table, **{column: np.full_like(values, end)}))
            for end in (values.min(), values.max())
        ]
        fall = np.log(ends[0]) - np.log(ends[1])
        if not np.any(fall[np.isfinite(fall)] > LEAST_FALL):
            flat.append(words[column])
    if flat:
        others = {"the size": "kaplan-d fits the tokens", "the number of tokens": "kaplan-n fits the size"}
        other = others.get(" ".join(flat))
        hint = f"; --law {other} alone" if other and len(law.reads) > 1 else ""
        raise UserError(
            f"{law.name}: the losses of these {len(table)} runs do not fall with {', or with '.join(flat)}{hint}"
        )


def _examine(
    table: RunTable, fitted: ParametricFit, refits: Bootstrap, how: How
) -> tuple[list[Warned], dict[str, Any]]:
    """Returns the warnings and the findings, as plain values."""
    law, method = fitted.law, methods.method(fitted.law.name)

    def refit(runs: RunTable) -> Law:
        with methods.refusing(law.name):
            return method.fit(runs, how).law

    def resampled(weights: np.ndarray) -> list[Law]:
        return method.resampled(table, [law], weights, how)

    off = diagnostics.outliers(table, law, refit)
    moved = diagnostics.influence(table, law, resampled)
    misfit = diagnostics.lack_of_fit(table, law, len(dataclasses.fields(law)) - len(how.fixed))
    drifted = diagnostics.drift(table, law, refit)
    findings = {
        "convergence": {**fitted.convergence._asdict(), "converged": fitted.convergence.converged},
        "condition": fitted.condition,
        "minima": [
            {"objective": minimum.objective, "starts": minimum.starts, **minimum.law.parameters()}
            for minimum in fitted.minima[:4]
        ],
        "influence": moved._asdict(),
        "outliers": {"rows": list(off.rows), "without": None if off.law is None else off.law.parameters()},
        "lack_of_fit": None if misfit is None else misfit._asdict(),
        "drift": None if drifted is None else drifted._asdict(),
    }
    exponents = [diagnostics.exponent(each) for each in refits.laws]
    error = float(np.std(exponents, ddof=1)) if len(exponents) > 1 else math.nan
    return diagnostics.of_findings(law, error, off, moved, misfit, drifted), findings
