"""The best learning rate of a model: short runs that differ in nothing else, compiled once.

Yang et al. 2022, "Tensor Programs V", figure 1: without muP the best rate falls with the width; with it, it stays.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from transformer.training.evaluation import evaluate
from transformer.training.optimizer import make_schedule
from transformer.training.session import Session
from transformer.training.state import Batch


def losses(
    session: Session, rates: Sequence[float], training: Sequence[Batch], validation: Sequence[Batch]
) -> dict[float, float]:
    """Returns peak learning rate -> loss on `validation` after one update a batch of `training`; inf: it diverged.

    The rate of muon's AdamW half goes with it.
    """
    by_rate = {}
    with jax.set_mesh(session.mesh):
        for rate in rates:
            optimizer = dataclasses.replace(session.experiment.optimizer, learning_rate=rate, adam_learning_rate=None)
            tuned = session.program.with_schedule(make_schedule(optimizer, len(training)))
            state = tuned.init()
            for batch in training:
                state, _ = tuned.step(state, batch)
            loss = evaluate(tuned.evaluate, state.params, validation)[0].loss
            by_rate[rate] = loss if np.isfinite(loss) and not state.skipped else float("inf")
    return by_rate


def best(by_rate: Mapping[float, float]) -> float | None:
    """Returns the best rate: the vertex of the parabola through the lowest loss and its neighbours, over log2 rate.

    Rates are to be equally spaced in their logarithm. None: the lowest is at an edge, so that nothing more is known.
    """
    rates = sorted(by_rate)
    lowest = min(range(len(rates)), key=lambda index: by_rate[rates[index]])
    if not 0 < lowest < len(rates) - 1:
        return None
    left, middle, right = (by_rate[rates[index]] for index in (lowest - 1, lowest, lowest + 1))
    if not np.isfinite([left, right]).all():
        return rates[lowest]
    step = np.log2(rates[lowest + 1] / rates[lowest])
    return float(rates[lowest] * 2 ** (step * 0.5 * (left - right) / (left - 2 * middle + right)))


def shift(bests: Mapping[int, float]) -> float:
    """Returns by how many powers of two the best rate moves with each doubling of the width, by least squares."""
    return float(np.polyfit(np.log2(list(bests)), np.log2(list(bests.values())), 1)[0])
