"""Laws and predictions in lines, for people."""

import math
from collections.abc import Iterator, Sequence

from transformer.scaling.laws import findings, words
from transformer.scaling.laws import predict as predicting
from transformer.scaling.laws.law import Warned
from transformer.scaling.laws.law_file import Fitted, TableRecord
from transformer.scaling.laws.power_law import PowerFit

OF_TABLE = "units", "several-settings", "copied-rows"
"""Codes of warnings about a table, shown once and not with each law."""


def of_model(fitted: Fitted, params: float, tokens: float) -> list[str]:
    """Returns the lines about one model's loss.

    Raises:
      UserError: the law says no loss of a model.
    """
    prediction = predicting.loss(fitted, params, tokens)
    predicting.require_loss(fitted, prediction)
    return [
        f"{fitted.fit.law.name}, N {params:.4g}, D {tokens:.4g}, C {6 * params * tokens:.4g}",
        f"  loss   {prediction.loss:.5f}   law {interval(prediction.of_law, '.5f')}   "
        f"one run {interval(prediction.of_run, '.5f')}",
    ]


def of_budget(fitted: Fitted, flops: float) -> list[str]:
    """Returns the lines about the best use of a budget.

    Raises:
      UserError: the law says none.
    """
    prediction = predicting.allocation(fitted, flops)
    predicting.require_allocation(fitted, prediction)
    return [
        f"{fitted.fit.law.name}, C {flops:.4g} (6 N D)",
        f"  loss   {_known(prediction.loss, '.5f', 'not known'):<9}  {interval(prediction.of_loss, '.5f')}".rstrip(),
        f"  N      {prediction.params:<9.3g}  {interval(prediction.of_params, '.3g')}",
        f"  D      {prediction.tokens:<9.3g}  {interval(prediction.of_tokens, '.3g')}",
        f"  D / N  {prediction.tokens / prediction.params:<9.3g}",
        "  (many sizes have nearly the best loss: the loss is known better than the size)",
    ]


def describe(fitted: Fitted) -> Iterator[str]:
    """Yields the lines about a law: its numbers with intervals, the findings about its fit, and its warnings."""
    law, refits = fitted.fit.law, fitted.bootstrap
    errors, intervals = refits.standard_errors(), refits.intervals()
    count = len(refits.laws) + refits.failed
    what = f" ({fitted.fit.minimised})" if fitted.fit.minimised else ""
    yield ""
    failed = f" ({refits.failed} failed)" if refits.failed else ""
    yield (
        f"{law.name}: {words.count(fitted.fit.rows, law.fitted_to)}, objective {fitted.fit.objective:.6g}{what}, "
        f"{words.count(count, 'refit')}{failed}{_goodness(fitted)}"
    )
    yield f"  {'':10}{'value':>12}{'s.e.':>12}   95 % interval"
    for name, value in law.parameters().items():
        line = f"  {name:10}{_known(value, '.5g', 'not known'):>12}"
        if name in fitted.fit.fixed:
            yield f"{line}{'fixed':>12}"
            continue
        if not refits.laws or intervals[name][0] != intervals[name][0]:  # NaN
            yield line
            continue
        yield f"{line}{_known(errors[name], '.3g', 'not known'):>12}   {interval(intervals[name], '.4g')}"
    if fitted.findings:
        yield from (f"  {line}" for line in findings.describe(fitted.findings))
    yield from warnings([each for each in fitted.fit.warnings if each.code not in OF_TABLE])


def compare(fitted: Sequence[Fitted], flops: float) -> Iterator[str]:
    """Yields the laws side by side: each one's best use of a budget."""
    yield f"a decade on, {flops:.3g} FLOPs:{'':8}N*{'':27}D*{'':27}loss{'':23}R2"
    for each in fitted:
        prediction = predicting.allocation(each, flops)
        parts = (
            f"{_known(prediction.params, '.3g'):<8} {interval(prediction.of_params, '.3g'):20}",
            f"{_known(prediction.tokens, '.3g'):<8} {interval(prediction.of_tokens, '.3g'):20}",
            f"{_known(prediction.loss, '.4f'):<8} {interval(prediction.of_loss, '.4f'):17}",
            _known(each.goodness.r_squared, ".4f"),
        )
        yield (f"  {each.fit.law.name:14}" + " ".join(parts)).rstrip()


def _known(value: float, form: str, unknown: str = "-") -> str:
    return unknown if value != value else f"{value:{form}}"  # NaN


def _goodness(fitted: Fitted) -> str:
    r_squared, error = fitted.goodness
    return "" if error != error else f", R2 {_known(r_squared, '.4f')}, rms error {error:.2%}"


def of_setting(fit: PowerFit, what: str) -> Iterator[str]:
    """Yields the lines about how a setting's best value scales: every sweep's best, then the law."""
    names = list(fit.law.exponents)
    yield f"    {''.join(f'{name:>12}' for name in names)}{f'best {what}':>24}{'by the law':>12}{'loss':>10}"
    for sweep in fit.sweeps:
        cell = "".join(f"{value:>12.4g}" for value in sweep.at.values())
        best = f"{sweep.valley.lowest:.4g}" if sweep.valley.inside else "not bracketed"
        yield f"    {cell}{best:>24}{fit.law(**sweep.at):>12.4g}{sweep.valley.depth:>10.4f}"
    terms = " ".join(f"{name}^{exponent:.4g}" for name, exponent in fit.law.exponents.items())
    yield f"  {what} = {fit.law.coefficient:.4g} {terms}"
    if fit.error == fit.error:
        yield f"  off by {math.expm1(fit.error):.1%} in the mean; standard errors of the exponents: " + ", ".join(
            f"{name} {error:.3g}" for name, error in fit.errors.items()
        )


def warnings(all_warned: Sequence[Warned]) -> Iterator[str]:
    """Yields the first warning of each code, and how many more there are."""
    codes = [warned.code for warned in all_warned]
    for place, warned in enumerate(all_warned):
        if warned.code not in codes[:place] or warned.code == "extrapolation":
            more = codes.count(warned.code) - 1 if warned.code != "extrapolation" else 0
            yield f"  {warned.code}: {warned.message}" + (f" ({more} more such)" if more else "")


def interval(pair: tuple[float, float], form: str) -> str:
    """Returns an interval in brackets; nothing where there is none."""
    low, high = pair
    return "" if low != low else f"[{low:{form}}, {high:{form}}]"


def ranges(source: TableRecord) -> str:
    """Returns what a table spans."""
    return ", ".join(f"{name} {low:.3g} to {high:.3g}" for name, (low, high) in source.ranges.items())
