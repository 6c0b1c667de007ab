"""Predictions of a fitted law: the loss of a model, or the best use of a budget, with intervals.

Losses extrapolate and allocations drift: many pairs of size and tokens have nearly the lowest loss.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws.bootstrap import Interval, interval
from transformer.scaling.laws.law import Warned
from transformer.scaling.laws.law_file import Fitted, TableRecord
from transformer.scaling.laws.methods import method


class LossPrediction(NamedTuple):
    """The predicted loss of one model."""

    loss: float
    """NaN where the law predicts no loss."""
    of_law: Interval
    """95 % for the law's value: the mean of many such runs, if the form holds."""
    of_run: Interval
    """95 % for one run: with the residuals of the fitted ones on top."""


class AllocationPrediction(NamedTuple):
    """The predicted best use of one budget."""

    params: float
    tokens: float
    loss: float
    of_params: Interval
    of_tokens: Interval
    of_loss: Interval


def on_corpus(fitted: Fitted, unique_tokens: float) -> Fitted:
    """Returns a law and its refits for runs over a corpus of so many tokens; raises UserError as `Law.on_corpus`."""
    refits = tuple(law.on_corpus(unique_tokens) for law in fitted.bootstrap.laws)
    return dataclasses.replace(
        fitted,
        fit=dataclasses.replace(fitted.fit, law=fitted.fit.law.on_corpus(unique_tokens)),
        bootstrap=dataclasses.replace(fitted.bootstrap, laws=refits),
    )


def loss(fitted: Fitted, params: float, tokens: float) -> LossPrediction:
    """Returns the loss of a model of N parameters trained on D tokens."""
    value = float(fitted.fit.law.loss(params, tokens))
    refits = fitted.bootstrap.losses(params, tokens)
    if not len(refits):
        return LossPrediction(value, interval(refits), interval(refits))
    return LossPrediction(value, interval(refits), interval(refits * np.exp(_noise(fitted, len(refits)))))


def allocation(fitted: Fitted, flops: float) -> AllocationPrediction:
    """Returns the size and tokens of the lowest loss for a budget of 6 N D FLOPs, and that loss."""
    law = fitted.fit.law
    refits = fitted.bootstrap.allocations(flops)
    return AllocationPrediction(
        *law.best(flops),
        *(interval(refits[:, column]) for column in range(3)),
    )


def extrapolation(source: TableRecord, **requested: float) -> list[Warned]:
    """Returns a warning, in decades, for each of params, tokens and flops that is outside the table's range."""
    warned = []
    for name, value in requested.items():
        low, high = source.ranges[name]
        decades = max(np.log10(value / high), np.log10(low / value))
        if decades > 0.005:
            where = "above the largest" if value > high else "below the smallest"
            edge = high if value > high else low
            line = f"{name} {value:.3g} is {decades:.2f} decades {where} that was trained, {edge:.3g}"
            warned.append(Warned("extrapolation", line))
    return warned


def warnings(fitted: Fitted, source: TableRecord, **given: float) -> list[Warned]:
    """Returns the warnings about a prediction: extrapolation, for a model's 6 N D FLOPs too, and the fit's own."""
    if "tokens" in given:
        given["flops"] = 6 * given["params"] * given["tokens"]
    return [*extrapolation(source, **given), *fitted.fit.warnings]


def record(fitted: Fitted, source: TableRecord, unique_tokens: float | None, **given: float) -> dict[str, Any]:
    """Returns a prediction as plain values for JSON, given `params` and `tokens`, or `flops`; intervals are 95 %.

    Raises:
      UserError: the law says no loss of a model, or no best size of a budget.
    """
    fields: dict[str, Any] = {"law": fitted.fit.law.name, **given, "unique_tokens": unique_tokens}
    if "tokens" in given:
        prediction = loss(fitted, given["params"], given["tokens"])
        require_loss(fitted, prediction)
        fields |= {"loss": prediction.loss, "interval_of_law": prediction.of_law, "interval_of_run": prediction.of_run}
    else:
        best = allocation(fitted, given["flops"])
        require_allocation(fitted, best)
        values = {"params": best.params, "tokens": best.tokens, "loss": best.loss}
        fields |= {**values, "intervals": {name: getattr(best, f"of_{name}") for name in values}}
    return {**fields, "warnings": [each._asdict() for each in warnings(fitted, source, **given)]}


def require_loss(fitted: Fitted, prediction: LossPrediction) -> None:
    """Raises UserError where a law predicts no loss of a model."""
    if np.isnan(prediction.loss):
        raise UserError(
            f"the law {fitted.fit.law.name!r} says what is best for a budget, and no model's loss: give --flops"
        )


def require_allocation(fitted: Fitted, prediction: AllocationPrediction) -> None:
    """Raises UserError where a law has no best size for a budget."""
    if np.isnan(prediction.params):
        raise UserError(f"the law {fitted.fit.law.name!r} says no best size of a budget: give --params and --tokens")


def _noise(fitted: Fitted, count: int) -> np.ndarray:
    """Returns [count] residuals, drawn evenly and scaled up for the degrees of freedom that the fit used."""
    off = fitted.residuals
    numbers = len(dataclasses.fields(method(fitted.fit.law.name).law)) - len(fitted.fit.fixed)
    if len(off) <= numbers:
        return np.full(count, np.nan)
    return np.random.default_rng(0).choice(off, count) * np.sqrt(len(off) / (len(off) - numbers))
