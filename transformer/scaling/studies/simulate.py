"""Simulation: how much a study will tell, estimated from many studies of the same cells under a known law."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws import parametric, synthetic
from transformer.scaling.laws.law import Law
from transformer.scaling.laws.parametric import Chinchilla
from transformer.scaling.studies.study import Cell

HOFFMANN = Chinchilla(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
"""Besiroglu et al. 2024's law of Hoffmann et al.'s runs: a law of language models, for want of a better guess."""
NOISE = 0.003
"""Standard deviation of log loss between seeds."""


class Expected(NamedTuple):
    """The spread of fits to simulated studies: half-widths of the middle 95 %, relative except for `a`."""

    a: float
    """Spread of the exponent of the best size, N* ~ C^a; absolute."""
    loss: float
    """Spread of the best loss of the held-out budget, or of ten times the largest budget where none is held out."""
    params: float
    """Spread of the best size of that budget."""
    failed: int
    """Number of studies that no law could be fitted to."""


def expected(
    cells: Sequence[Cell],
    *,
    truth: Law = HOFFMANN,
    noise: float = NOISE,
    count: int = 40,
    seed: int = 0,
    progress: Callable[[], object] = lambda: None,
) -> Expected:
    """Returns the spread of fits to simulated studies.

    Args:
      cells: the cells of a study.
      truth: the law that the losses follow.
      noise: standard deviation of log loss between runs that differ in their seed alone.
      count: number of studies.
      seed: seed of the noise.
      progress: called after each study.

    Raises:
      UserError: no fit to these cells says anything.
    """
    fitted = [cell for cell in cells if not cell.held_out]
    budget = max(cell.flops for cell in cells) * (1 if len(fitted) < len(cells) else 10)
    params, tokens = (np.array([float(getattr(cell, field)) for cell in fitted]) for field in ("params", "tokens"))
    best = truth.optimum(budget)
    fits, failed = [], 0
    for number in range(count):
        try:
            law = parametric.fit(synthetic.study(truth, params, tokens, noise=noise, seed=seed + number)).law
        except UserError:
            failed += 1
            continue
        finally:
            progress()
        numbers = law.parameters()
        fits.append((numbers["a"], float(law.loss(*best)), law.optimum(budget).params))
    if len(fits) < 2:
        raise UserError(f"{len(fitted)} runs to fit tell nothing of a law: plan more sizes or budgets")
    a, loss, size = np.array(fits).T
    return Expected(_half(a), _half(np.log(loss)), _half(np.log(size)), failed)


def _half(values: np.ndarray) -> float:
    """Returns half the width of the middle 95 %."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(high - low) / 2
