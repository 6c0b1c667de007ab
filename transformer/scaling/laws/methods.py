"""The laws, by the names that `--law` takes, and how each is fitted and fitted again."""

import difflib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws import bootstrap, envelope, isoflop, kaplan, overtrain, parametric, repeat
from transformer.scaling.laws.bootstrap import Bootstrap
from transformer.scaling.laws.envelope import Envelope
from transformer.scaling.laws.isoflop import IsoFLOP
from transformer.scaling.laws.kaplan import Kaplan, KaplanParams, KaplanTokens
from transformer.scaling.laws.law import Fit, Law
from transformer.scaling.laws.overtrain import OverTrain
from transformer.scaling.laws.parametric import Chinchilla
from transformer.scaling.laws.repeat import Repeat
from transformer.scaling.laws.table import Table


class Method(NamedTuple):
    """A law, and how to fit it."""

    law: type[Law]
    fit: Callable[[Table], Fit]
    refit: Callable[[Table, Law], Fit]
    """Fits runs drawn from a table whose law is known."""


METHODS = {
    "chinchilla": Method(Chinchilla, parametric.fit, lambda table, _: parametric.fit(table)),
    "kaplan": Method(Kaplan, kaplan.fit, kaplan.fit),
    "kaplan-n": Method(KaplanParams, kaplan.fit_params, kaplan.fit_params),
    "kaplan-d": Method(KaplanTokens, kaplan.fit_tokens, kaplan.fit_tokens),
    "isoflop": Method(IsoFLOP, isoflop.fit, lambda table, _: isoflop.fit(table)),
    "envelope": Method(Envelope, envelope.fit, lambda table, _: envelope.fit(table)),
    "overtrain": Method(OverTrain, overtrain.fit, overtrain.fit),
    "repeat": Method(Repeat, repeat.fit, repeat.fit),
}
SIDE_BY_SIDE = "chinchilla", "isoflop", "envelope", "kaplan", "overtrain", "repeat"
"""What is fitted where no law is named. Kaplan's laws of one variable leave the other out: by name only."""


def method(name: str) -> Method:
    """Returns one of `METHODS`; raises UserError for another name, with the nearest."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from: {', '.join(METHODS)}"
        raise UserError(f"--law {name}: no such law; {hint}")
    return METHODS[name]


def resample(table: Table, law: Law, count: int, seed: int) -> Bootstrap:
    """Returns `count` refits of a law that was fitted to a table. Chinchilla's take a second, all together."""
    if isinstance(law, Chinchilla):
        weights = bootstrap.counts(bootstrap.draws(len(table), count, seed))
        return Bootstrap(tuple(parametric.resampled(table, law, weights)))
    if isinstance(law, IsoFLOP):  # whole budgets missing would be another study
        rng = np.random.default_rng(seed)
        drawn = [isoflop.resample(table, rng) for _ in range(count)]
    else:
        drawn = list(bootstrap.draws(len(table), count, seed))
    refit = METHODS[law.name].refit
    refitted = []
    for rows in drawn:
        try:
            refitted.append(refit(table.take(rows), law).law)
        except (UserError, ArithmeticError, np.linalg.LinAlgError):  # too few different runs were drawn
            continue
    return Bootstrap(tuple(refitted), count - len(refitted))
