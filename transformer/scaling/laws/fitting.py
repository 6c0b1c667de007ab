"""A table -> laws with their uncertainty and what there is to say against them: what `fit` does."""

import dataclasses
import math
from typing import Any

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws import diagnostics, methods
from transformer.scaling.laws.bootstrap import Bootstrap
from transformer.scaling.laws.law import Fit, Law, Warned
from transformer.scaling.laws.law_file import Fitted, Goodness
from transformer.scaling.laws.methods import Method
from transformer.scaling.laws.parametric import NUMBERS, ParametricFit
from transformer.scaling.laws.table import Table

_WEIGHT = (
    "units",
    "several-settings",
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
"""Codes, the gravest first; a law's own stand behind them."""


def fit(table: Table, law: str, count: int = 1000, seed: int = 0) -> Fitted:
    """Returns a law fitted to a table, and fitted again to `count` draws of its runs.

    Raises:
      UserError: the table says nothing of this law, or there is no such law.
    """
    method = methods.method(law)
    try:
        # An overflow on the way of a descent is no news; what it ends at is judged.
        with np.errstate(all="ignore"):
            return _fit(table, method, count, seed)
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        raise UserError(
            f"{law}: the numbers of these runs are beyond it ({error}); look for runs that are off"
        ) from error


def _fit(table: Table, method: Method, count: int, seed: int) -> Fitted:
    found, law = method.fit(table), method.law.name
    _require_falling(table, found.law)
    refits = methods.resample(table, found.law, count, seed) if count else Bootstrap(())
    off = diagnostics.residuals(table, found.law)
    off = off[np.isfinite(off)]
    warned = [*table.warned, *diagnostics.of_table(table), *found.warnings]
    findings: dict[str, Any] = {}
    if isinstance(found, ParametricFit):
        more, findings = _examine(table, found, refits)
        warned += more
    warned += diagnostics.of_bootstrap(refits)
    if law == "repeat":
        warned = [each for each in warned if each.code != "repeated-tokens"]
    warned.sort(key=lambda each: _WEIGHT.index(each.code) if each.code in _WEIGHT else len(_WEIGHT))
    plain = Fit(found.law, found.objective, found.rows, tuple(warned))
    return Fitted(plain, refits, off, findings, _goodness(table, found.law))


def _goodness(table: Table, law: Law) -> Goodness:
    """Returns how well a law describes the rows whose loss it says; NaN where it says none."""
    off = diagnostics.residuals(table, law)
    said = np.isfinite(off)
    if said.sum() < 2:
        return Goodness(math.nan, math.nan)
    spread = float(np.var(np.log(table.loss[said])))
    mean = float(np.mean(off[said] ** 2))
    return Goodness(1 - mean / spread if spread > 0 else math.nan, mean**0.5)


_LEAST_FALL = 1e-3
"""The share of a loss that all of the table's sizes, or tokens, must make by the law: less is nothing that runs say."""


def _require_falling(table: Table, law: Law) -> None:
    """Refuses a law by which the loss hardly falls with what it reads.

    Raises:
      UserError: it names the columns.
    """
    words = {"params": "the size", "tokens": "the number of tokens"}
    flat = []
    for column in law.reads:
        values = getattr(table, column)
        ends = [
            law.predict(dataclasses.replace(table, **{column: np.full_like(values, end)}))
            for end in (values.min(), values.max())
        ]
        fall = np.log(ends[0]) - np.log(ends[1])
        if not np.any(fall[np.isfinite(fall)] > _LEAST_FALL):
            flat.append(words[column])
    if flat:
        other = {"the size": "kaplan-d", "the number of tokens": "kaplan-n"}.get(" ".join(flat), "")
        hint = f"; --law {other} fits the other alone" if other and len(law.reads) > 1 else ""
        raise UserError(
            f"{law.name}: the losses of these {len(table)} runs do not fall with {', or with '.join(flat)}{hint}"
        )


def _examine(table: Table, found: ParametricFit, refits: Bootstrap) -> tuple[list[Warned], dict[str, Any]]:
    """Returns the warnings and the findings, as plain values."""
    law = found.law
    off = diagnostics.outliers(table, law)
    moved = diagnostics.influence(table, law)
    misfit = diagnostics.lack_of_fit(table, law, NUMBERS)
    drifted = diagnostics.drift(table, law)
    findings = {
        "convergence": {**found.convergence._asdict(), "converged": found.convergence.converged},
        "condition": found.condition,
        "minima": [
            {"objective": minimum.objective, "starts": minimum.starts, **minimum.law.parameters()}
            for minimum in found.minima[:4]
        ],
        "influence": moved._asdict(),
        "outliers": {"rows": list(off.rows), "without": None if off.law is None else off.law.parameters()},
        "lack_of_fit": None if misfit is None else misfit._asdict(),
        "drift": None if drifted is None else drifted._asdict(),
    }
    error = refits.standard_errors().get("a", math.nan)
    return diagnostics.of_findings(law, error, off, moved, misfit, drifted), findings
