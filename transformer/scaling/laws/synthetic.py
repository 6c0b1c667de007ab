"""Studies with a known truth: runs whose losses a law gives, with noise.

A plan simulates its own study before a FLOP is spent; tests check that the truth comes back, and how often an interval
holds it.
"""

import dataclasses

import numpy as np

from transformer.scaling.laws.law import Law
from transformer.scaling.laws.table import RunTable


def study(
    law: Law,
    params: np.ndarray | float,
    tokens: np.ndarray | float,
    unique_tokens: np.ndarray | float | None = None,
    noise: float = 0.0,
    seed: int = 0,
) -> RunTable:
    """Returns the table of runs whose losses a law gives.

    Args:
      law: the truth.
      params: N of every run. It broadcasts with `tokens`: [R, 1] and [S] are a grid of R * S runs.
      tokens: D of every run, repeated ones counted each time.
      unique_tokens: tokens of the corpus, where it is read more than once; it broadcasts too.
      noise: standard deviation of log loss, between runs that differ in their seed alone.
      seed: seed of the noise.
    """
    columns = np.broadcast_arrays(params, tokens, np.nan if unique_tokens is None else unique_tokens)
    params, tokens, unique = (np.asarray(column, np.float64).ravel() for column in columns)
    table = RunTable(
        params, tokens, np.ones_like(params), 6 * params * tokens, None if unique_tokens is None else unique
    )
    errors = noise * np.random.default_rng(seed).standard_normal(len(params))
    return dataclasses.replace(table, loss=law.predict(table) * np.exp(errors))


def isoflop(
    law: Law,
    budgets: np.ndarray,
    points: int,
    spread: float,
    centre: float = 1.0,
    noise: float = 0.0,
    seed: int = 0,
) -> RunTable:
    """Returns the study of an IsoFLOP grid: at every budget, sizes log-spaced around the law's optimum.

    Args:
      law: the truth; sizes surround its `optimum`.
      budgets: [K] C, FLOPs.
      points: sizes at a budget.
      spread: the largest size over the middle one, as the middle one over the smallest.
      centre: the middle size over the optimum: 1 where the planner knew it.
      noise: as in `study`.
      seed: as in `study`.
    """
    budgets = np.asarray(budgets, np.float64)[:, None]
    best = np.array([[law.optimum(float(budget)).params] for [budget] in budgets])
    params = best * centre * spread ** np.linspace(-1, 1, points)
    return study(law, params, budgets / (6 * params), noise=noise, seed=seed)
