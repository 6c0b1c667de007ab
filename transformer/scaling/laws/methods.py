"""The laws, by the names that `--law` takes, and how each is fitted and fitted again."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from transformer.errors import UserError, choice_hint
from transformer.scaling.laws import bootstrap, envelope, isoflop, kaplan, overtrain, parametric, repeat_fit
from transformer.scaling.laws.allocation import PairsLaw
from transformer.scaling.laws.bootstrap import Bootstrap
from transformer.scaling.laws.descent import ParametricFit
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
    """Of a table and a How."""
    resampled: Callable[..., list[Any]] | None = None
    """A parametric law's: solves for many weights of the runs at once, from laws fitted to all of them."""


def _no_runs(table: RunTable, how: How = How()) -> Fit:
    raise UserError("pairs is fitted to optimal sizes, not to runs: give --pairs FILE in place of --table")


METHODS = {
    "chinchilla": Method(Chinchilla, parametric.fit, parametric.resampled),
    "kaplan": Method(Kaplan, kaplan.fit, kaplan.resampled),
    "kaplan-n": Method(KaplanParams, kaplan.fit_params, kaplan.resampled),
    "kaplan-d": Method(KaplanTokens, kaplan.fit_tokens, kaplan.resampled),
    "isoflop": Method(IsoFLOP, isoflop.fit),
    "envelope": Method(Envelope, envelope.fit),
    "overtrain": Method(OverTrain, overtrain.fit, overtrain.resampled),
    "pairs": Method(PairsLaw, _no_runs),
    "repeat": Method(Repeat, repeat_fit.fit, repeat_fit.resampled),
}
SIDE_BY_SIDE = "chinchilla", "isoflop", "envelope", "kaplan", "overtrain", "repeat"
"""What is fitted where no law is named. Kaplan's laws of one variable leave the other out: by name only."""


def method(name: str) -> Method:
    """Returns one of `METHODS`; raises UserError for another name, with the nearest."""
    if name not in METHODS:
        raise UserError(f"--law {name}: no such law; {choice_hint(name, METHODS)}")
    return METHODS[name]


@contextlib.contextmanager
def refusing(law: str) -> Iterator[None]:
    """Fits in silence: an overflow on the way of a descent is no news, and what it ends at is judged.

    Raises:
      UserError: there, in place of the arithmetic's own error, which runs far off make.
    """
    try:
        with np.errstate(all="ignore"):
            yield
    except (ArithmeticError, np.linalg.LinAlgError) as error:
        raise UserError(
            f"{law}: the numbers of these runs are beyond it ({error}); look for runs that are off"
        ) from error


_MINIMA = 3
"""Of the whole table, from which every draw of its runs is fitted again."""


def resample(
    table: RunTable, found: Fit, count: int, seed: int, how: How = How(), tick: Callable[[int], Any] | None = None
) -> Bootstrap:
    """Returns `count` refits of a law that was fitted to a table; a parametric law's are solved many together."""
    law, again = found.law, METHODS[found.law.name]
    if again.resampled is not None:
        assert isinstance(found, ParametricFit)
        weights = bootstrap.counts(bootstrap.draws(len(table), count, seed))
        starts = [minimum.law for minimum in found.minima[:_MINIMA]]
        return Bootstrap(tuple(again.resampled(table, starts, weights, how, tick)))
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
            refitted.append(again.fit(runs, how, **of_bias).law)
        if tick is not None:
            tick(1)
    return Bootstrap(tuple(refitted), count - len(refitted))
