"""Held-out runs beside a law's predictions: how well a study predicts runs that it was not fitted to."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath

from transformer.errors import UserError
from transformer.scaling.laws import isoflop, predict
from transformer.scaling.laws.allocation import AllocationLaw
from transformer.scaling.laws.bootstrap import Interval
from transformer.scaling.laws.law_file import Fitted
from transformer.scaling.laws.predict import AllocationPrediction
from transformer.scaling.laws.show import interval
from transformer.scaling.laws.table import RunTable
from transformer.scaling.studies.study import Study, diverged, table


class HeldOut(NamedTuple):
    """A held-out run beside a law's prediction of its loss."""

    name: str
    params: float
    tokens: float
    flops: float
    predicted: float
    of_law: Interval
    of_run: Interval
    measured: float

    @property
    def error(self) -> float:
        """Measured over predicted, less 1."""
        return self.measured / self.predicted - 1

    @property
    def inside(self) -> bool | None:
        """Whether it lies in the interval of one run; None where there is no interval."""
        low, high = self.of_run
        return None if math.isnan(low) else low <= self.measured <= high


def compare(fitted: Fitted, held_out: RunTable) -> list[HeldOut]:
    """Returns the held-out runs, by budget and by size, beside a law's predictions."""
    order = np.lexsort((held_out.params, np.round(np.log10(held_out.flops), 1)))
    runs = []
    for row in order:
        n, d, c, loss = (float(x[row]) for x in (held_out.params, held_out.tokens, held_out.flops, held_out.loss))
        runs.append(HeldOut(held_out.names[row], n, d, c, *predict.loss(fitted, n, d), loss))
    return runs


class Best(NamedTuple):
    """The best use of a held-out budget: where the parabola through its runs is lowest, or as a law predicts it."""

    flops: float
    by: str
    """`measured`, or the law's name."""
    best: AllocationPrediction
    """The best size, tokens and loss; without intervals where they were measured."""


def best(fitted: Sequence[Fitted], held_out: RunTable) -> Iterator[Best]:
    """Yields the measured and the predicted best use of each held-out budget whose runs bracket their best size."""
    unknown = math.nan, math.nan
    for profile in isoflop.profiles(held_out):
        if not profile.valley.inside:
            continue
        params, tokens, loss = profile.valley.lowest, profile.tokens, profile.valley.depth
        yield Best(profile.flops, "measured", AllocationPrediction(params, tokens, loss, unknown, unknown, unknown))
        for each in fitted:
            # An allocation law's C is counted as the table counts it; the other laws' C is 6 N D.
            own = isinstance(each.fit.law, AllocationLaw)
            prediction = predict.allocation(each, profile.flops if own else 6 * params * tokens)
            if math.isfinite(prediction.params):
                yield Best(profile.flops, each.fit.law.name, prediction)


class Score(NamedTuple):
    """The accuracy of a law's predictions over the held-out runs."""

    error: float
    """Mean absolute relative error."""
    inside: int
    judged: int
    """Number of runs that have an interval; `inside` of them lie in it."""


def score(compared: Sequence[HeldOut]) -> Score:
    """Returns the accuracy of a law's predictions."""
    judged = [each.inside for each in compared if each.inside is not None]
    return Score(float(np.mean([abs(each.error) for each in compared])), sum(judged), len(judged))


def describe(fitted: Sequence[Fitted], study: Study, folder: epath.PathLike) -> Iterator[str]:
    """Yields the lines about a study's held-out runs: each law's predictions beside the measured losses."""
    names = diverged(study, folder)
    if names:
        yield f"\nleft out, for their loss was not finite: {', '.join(names)}"
    try:
        held = table(study, folder, held_out=True)
    except UserError:
        return
    for each in fitted:
        rows = [row for row in compare(each, held) if not math.isnan(row.predicted)]
        if not rows:
            continue
        yield f"\nheld out, {each.fit.law.name}:"
        yield f"  {'run':24}{'measured':>10}{'predicted':>11}   {'95 %, one run':20}{'error':>8}"
        for row in rows:
            outside = "  outside" if row.inside is False else ""
            yield (
                f"  {row.name:24}{row.measured:>10.4f}{row.predicted:>11.4f}   {interval(row.of_run, '.4f'):20}"
                f"{row.error:>+8.2%}{outside}"
            )
    bests = list(best(fitted, held))
    if bests:
        yield "\nthe best of a held-out budget: measured, by the parabola through its runs, and predicted:"
        yield f"  {'C':>9}  {'':12}{'N*':>9} {'95 %':22}{'D*':>9} {'95 %':22}{'loss':>8} {'95 %':18}"
    for flops, by, best_use in bests:
        loss = "" if math.isnan(best_use.loss) else f"{best_use.loss:.4f}"
        yield (
            f"  {flops:>9.3g}  {by:12}"
            f"{best_use.params:>9.3g} {interval(best_use.of_params, '.3g'):22}"
            f"{best_use.tokens:>9.3g} {interval(best_use.of_tokens, '.3g'):22}"
            f"{loss:>8} {interval(best_use.of_loss, '.4f'):18}"
        ).rstrip()
