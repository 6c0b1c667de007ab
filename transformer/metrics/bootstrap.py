"""Intervals of metrics, by resampling examples (Efron 1979)."""

from collections.abc import Callable, Mapping

import numpy as np

RESAMPLES = 1000


def intervals(
    metric: Callable[[np.ndarray], Mapping[str, float]],
    examples: int,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Returns the percentile interval of each figure of a metric.

    Args:
      metric: called with the numbers of examples, of which some occur more than once.
      examples: how many there are.
      level: the share of resamples that an interval holds.
      resamples: how many times `metric` is called.
      seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    drawn = [metric(rng.integers(examples, size=examples)) for _ in range(resamples)]
    tail = 100 * (1 - level) / 2
    return {
        name: tuple(np.percentile([each[name] for each in drawn], [tail, 100 - tail]).tolist()) for name in drawn[0]
    }
