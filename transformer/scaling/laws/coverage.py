"""Coverage: how often intervals hold the truth, over studies with a known law and noise."""

import dataclasses
from collections.abc import Callable

import numpy as np

from transformer.scaling.laws import bootstrap
from transformer.scaling.laws.law import Law
from transformer.scaling.laws.methods import METHODS
from transformer.scaling.laws.parametric import Chinchilla
from transformer.scaling.laws.table import RunTable

TRUTH = Chinchilla(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
"""The law that Hoffmann et al. 2022 published, section 3.3."""

Noise = Callable[[np.random.Generator, RunTable], np.ndarray]
"""Draws [R] errors of log loss."""


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Shares and widths over many studies, by quantity."""

    held: dict[str, float]
    """The share of studies whose interval held the truth."""
    width: dict[str, float]
    """The median width of the intervals."""


def even(deviation: float) -> Noise:
    """Returns noise of one standard deviation for all runs."""
    return lambda rng, table: deviation * rng.standard_normal(len(table))


def uneven(deviation: float) -> Noise:
    """Returns noise with heavy tails (Student's t of 3), twice as large for the cheapest run, half for the dearest."""

    def draw(rng: np.random.Generator, table: RunTable) -> np.ndarray:
        logs = np.log(table.flops)
        size = 2.0 * 0.25 ** ((logs - logs.min()) / np.ptp(logs))
        return deviation * size * rng.standard_t(3, len(table)) / 3**0.5

    return draw


def quantities(law: Law, beyond: float) -> dict[str, float]:
    """Returns the quantities that intervals are given for: numbers, and the best size of a budget with its loss."""
    best = law.optimum(beyond)
    numbers = law.parameters()
    return {
        **{name: numbers[name] for name in ("E", "alpha", "beta", "a")},
        "N*": best.params,
        "L*": law.optimal_loss(beyond),
    }


def measure(design: RunTable, noise: Noise, studies: int, refits: int = 400, seed: int = 0) -> Coverage:
    """Returns the coverage of 95 % intervals over studies of one design, a decade beyond its largest budget.

    Args:
      design: runs of `TRUTH` without noise.
      noise: draws the errors of each study.
      studies: number of studies.
      refits: number of refits of each study.
      seed: seed of everything drawn.
    """
    rng = np.random.default_rng(seed)
    beyond = 10 * float(design.flops.max())
    true = quantities(TRUTH, beyond)
    held: dict[str, list[bool]] = {name: [] for name in true}
    width: dict[str, list[float]] = {name: [] for name in true}
    for _ in range(studies):
        table = dataclasses.replace(design, loss=design.loss * np.exp(noise(rng, design)))
        # Descents from the truth and from a grid end in the same place; this one is shorter.
        law = METHODS["chinchilla"].resampled(table, [TRUTH], np.ones((1, len(table))))[0]
        drawn = bootstrap.draws(len(table), refits, int(rng.integers(2**32)))
        laws = METHODS["chinchilla"].resampled(table, [law], bootstrap.counts(drawn))
        refitted = [quantities(each, beyond) for each in laws]
        for name, value in true.items():
            low, high = bootstrap.interval([each[name] for each in refitted])
            held[name].append(low <= value <= high)
            width[name].append(high - low)
    return Coverage(
        {name: float(np.mean(values)) for name, values in held.items()},
        {name: float(np.median(values)) for name, values in width.items()},
    )
