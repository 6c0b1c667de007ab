"""The laws by the names that `--law` takes, and how each is fitted and refitted."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from transformer.errors import UserError, choice_hint
from transformer.scaling.laws import bootstrap, descent, envelope, isoflop, kaplan, overtrain, parametric, repeat_fit
from transformer.scaling.laws.allocation import PairsLaw
from transformer.scaling.laws.bootstrap import Bootstrap
from transformer.scaling.laws.descent import ParametricFit, Problem, Tick
from transformer.scaling.laws.envelope import Envelope
from transformer.scaling.laws.how import How
from transformer.scaling.laws.isoflop import IsoFLOP
from transformer.scaling.laws.kaplan import Kaplan, KaplanParams, KaplanTokens
from transformer.scaling.laws.law import Fit, Law
from transformer.scaling.laws.overtrain import OverTrain
from transformer.scaling.laws.parametric import Chinchilla
from transformer.scaling.laws.repeat import Repeat
from transformer.scaling.laws.table import RunTable


class Method(NamedTuple):
    """A law, and how to fit it."""

    law: type[Law]
    fit: Callable[..., Fit]
    """Fits a table's law: takes the table and a How."""
    problem: Callable[[RunTable, How], Problem] | None = None
    """Makes the problem that a parametric law solves."""
    settle: Callable[[RunTable, Law, How], Law] | None = None
    """Takes the numbers that a table does not determine out of a parametric law refitted to it; None: it has none."""

    def resampled(
        self, table: RunTable, laws: list[Law], weights: np.ndarray, how: How = How(), tick: Tick | None = None
    ) -> list[Law]:
        """Returns a parametric law's fits in which run r counts weights[k, r] times, for every k: descent.refit."""
        assert self.problem is not None
        refits = descent.refit(self.problem(table, how), laws, weights, tick)
        if self.settle is None:
            return refits
        drawn = (table.take(np.flatnonzero(counts > 0)) for counts in weights)
        return [self.settle(runs, law, how) for runs, law in zip(drawn, refits, strict=True)]


def _no_runs(table: RunTable, how: How = How()) -> Fit:
    raise UserError("pairs is fitted to optimal sizes, not to runs: give --pairs FILE in place of --table")


METHODS = {
    "chinchilla": Method(Chinchilla, parametric.fit, parametric.Terms.of),
    "kaplan": Method(Kaplan, kaplan.fit, kaplan.Joint.of),
    "kaplan-n": Method(KaplanParams, kaplan.fit_params, partial(kaplan.Line.of, form=KaplanParams)),
    "kaplan-d": Method(KaplanTokens, kaplan.fit_tokens, partial(kaplan.Line.of, form=KaplanTokens)),
    "isoflop": Method(IsoFLOP, isoflop.fit),
    "envelope": Method(Envelope, envelope.fit),
    "overtrain": Method(OverTrain, overtrain.fit, overtrain.Tied.of),
    "pairs": Method(PairsLaw, _no_runs),
    "repeat": Method(Repeat, repeat_fit.fit, repeat_fit.RepeatTerms.of, repeat_fit.forget_unseen),
}
SIDE_BY_SIDE = "chinchilla", "isoflop", "envelope", "kaplan", "overtrain", "repeat"
"""Laws that are fitted where none is named. Kaplan's laws of one variable are fitted by name only."""


def method(name: str) -> Method:
    """Returns one of `METHODS`; raises UserError for another name, with the nearest."""
    if name not in METHODS:
        raise UserError(f"--law {name}: no such law; {choice_hint(name, METHODS)}")
    return METHODS[name]


@contextlib.contextmanager
def refusing(law: str) -> Iterator[None]:
    """Runs a fit without NumPy's warnings: a descent may overflow on its way, and its end is checked.

    Raises:
      UserError: in place of an arithmetic error, which wildly wrong runs cause.
    """
    try:
        with np.errstate(all="ignore"):
            yield
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        raise UserError(
            f"{law}: the numbers of these runs are beyond it ({error}); look for runs that are off"
        ) from error


_MINIMA = 3
"""Number of the whole table's minima that every refit starts from."""


def resample(table: RunTable, fit: Fit, count: int, seed: int, how: How = How(), tick: Tick | None = None) -> Bootstrap:
    """Returns `count` refits of a law that was fitted to a table; a parametric law's are solved many together."""
    law, method = fit.law, METHODS[fit.law.name]
    if method.problem is not None:
        assert isinstance(fit, ParametricFit)
        weights = bootstrap.counts(bootstrap.draws(len(table), count, seed))
        starts = [minimum.law for minimum in fit.minima[:_MINIMA]]
        return Bootstrap(tuple(method.resampled(table, starts, weights, how, tick)))
    if isinstance(law, IsoFLOP):  # whole budgets missing would be another study
        rng = np.random.default_rng(seed)
        drawn = [isoflop.resample(table, rng) for _ in range(count)]
    else:
        drawn = list(bootstrap.draws(len(table), count, seed))
    shares = np.random.default_rng(seed).permutation(np.linspace(*isoflop.SHARES, count))
    refitted = []
    for rows, share in zip(drawn, shares, strict=True):
        with contextlib.suppress(UserError), refusing(law.name):  # too few different runs were drawn
            runs, of_bias = table.take(rows), {"share": float(share)} if isinstance(law, IsoFLOP) else {}
            refitted.append(method.fit(runs, how, **of_bias).law)
        if tick is not None:
            tick(1)
    return Bootstrap(tuple(refitted), count - len(refitted))
