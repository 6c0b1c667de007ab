"""Kaplan's laws: the loss of a model's size, of the tokens, and of both; no floor under any.

Kaplan et al. 2020, "Scaling Laws for Neural Language Models", equations 1.1, 1.2 and 1.5. N there leaves the
embeddings out. Its laws in steps and batch size (equations 1.4 and 1.6) read what a table of final losses lacks.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np
from scipy.optimize import nnls

from transformer.errors import UserError
from transformer.scaling.laws import huber
from transformer.scaling.laws.law import Allocation, Fit, Law
from transformer.scaling.laws.table import Table


@dataclasses.dataclass(frozen=True)
class KaplanParams(Law):
    """L(N) = (N_c / N)^alpha_N, equation 1.1: models trained to convergence, on more tokens than they can use."""

    name: ClassVar[str] = "kaplan-n"
    reads: ClassVar[tuple[str, ...]] = ("params",)

    alpha_N: float
    N_c: float

    def loss(self, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        params, _ = np.broadcast_arrays(np.asarray(params, np.float64), tokens)
        return (self.N_c / params) ** self.alpha_N

    def optimum(self, flops: float) -> Allocation:
        return Allocation(math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class KaplanTokens(Law):
    """L(D) = (D_c / D)^alpha_D, equation 1.2: a model larger than the tokens deserve, stopped when it overfits."""

    name: ClassVar[str] = "kaplan-d"
    reads: ClassVar[tuple[str, ...]] = ("tokens",)

    alpha_D: float
    D_c: float

    def loss(self, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        _, tokens = np.broadcast_arrays(params, np.asarray(tokens, np.float64))
        return (self.D_c / tokens) ** self.alpha_D

    def optimum(self, flops: float) -> Allocation:
        return Allocation(math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class Kaplan(Law):
    """L(N, D) = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D, equation 1.5."""

    name: ClassVar[str] = "kaplan"

    alpha_N: float
    alpha_D: float
    N_c: float
    D_c: float

    def loss(self, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        params, tokens = np.asarray(params, np.float64), np.asarray(tokens, np.float64)
        return ((self.N_c / params) ** (self.alpha_N / self.alpha_D) + self.D_c / tokens) ** self.alpha_D

    def optimum(self, flops: float) -> Allocation:
        # With D = C / (6 N), the derivative of (N_c / N)^r + 6 D_c N / C is zero. The paper's own C^0.73 (equation
        # 1.7) is another question: its batch size grows with C, and its models stop short of the tokens' end.
        ratio = self.alpha_N / self.alpha_D
        params = (ratio * self.N_c**ratio * flops / (6 * self.D_c)) ** (1 / (1 + ratio))
        return Allocation(params, flops / (6 * params))


def fit(table: Table, start: Law | None = None) -> Fit:
    """Fits Kaplan's L(N, D); the objective is huber.py's.

    Args:
      table: runs of five cells or more, of more than one size and more than one number of tokens.
      start: a Kaplan to descend from, such as the whole table's for a bootstrap's; by default the best of a grid.

    Raises:
      UserError: the table has too few cells, or one size or number of tokens alone.
    """
    for column, what, other in ((table.params, "size", "kaplan-d"), (table.tokens, "number of tokens", "kaplan-n")):
        if len(np.unique(column)) == 1:
            raise UserError(
                f"kaplan: every run has the same {what}, {column[0]:.3g}; --law {other} fits the other alone"
            )
    huber.require_cells(table, "kaplan", 4)
    middle_n, middle_d = np.log(table.params).mean(), np.log(table.tokens).mean()
    x, y, log_loss = np.log(table.params) - middle_n, np.log(table.tokens) - middle_d, np.log(table.loss)

    def residuals(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_n, log_d, ratio, alpha_d = at
        size, data = np.exp(log_n - ratio * x), np.exp(log_d - y)
        total = size + data
        slopes = alpha_d * np.stack([size, data, -x * size, total * np.log(total) / alpha_d], axis=1) / total[:, None]
        return alpha_d * np.log(total) - log_loss, slopes

    if isinstance(start, Kaplan):
        ratio = start.alpha_N / start.alpha_D
        log_n, log_d = ratio * (np.log(start.N_c) - middle_n), np.log(start.D_c) - middle_d
        first = np.array([log_n, log_d, ratio, start.alpha_D])
    else:
        first = _start(x, y, table.loss)
    lower, upper = np.array([-500.0, -500.0, 1e-3, 1e-3]), np.array([500.0, 500.0, 50.0, 10.0])
    found = huber.minimise(residuals, first, lower, upper)
    log_n, log_d, ratio, alpha_d = (float(value) for value in found.at)
    if abs(log_n / ratio + middle_n) > 700:  # no float: at the table's sizes the term is nothing, or a constant
        raise UserError(
            "kaplan: the losses of these runs do not fall with the size; --law kaplan-d fits the tokens alone"
        )
    law = Kaplan(ratio * alpha_d, alpha_d, math.exp(log_n / ratio + middle_n), math.exp(log_d + middle_d))
    return Fit(law, found.objective, len(table), tuple(found.judge(["N_c", "D_c", "alpha_N / alpha_D", "alpha_D"])))


def fit_params(table: Table, start: Law | None = None) -> Fit:
    """Fits Kaplan's L(N); the objective is huber.py's, and `start` a KaplanParams."""
    first = (start.alpha_N, start.N_c) if isinstance(start, KaplanParams) else None
    (alpha, scale), found = _line(table.params, table, "kaplan-n", "sizes", first)
    return Fit(KaplanParams(alpha, scale), found.objective, len(table), tuple(found.judge(["alpha_N", "N_c"])))


def fit_tokens(table: Table, start: Law | None = None) -> Fit:
    """Fits Kaplan's L(D); the objective is huber.py's, and `start` a KaplanTokens."""
    first = (start.alpha_D, start.D_c) if isinstance(start, KaplanTokens) else None
    (alpha, scale), found = _line(table.tokens, table, "kaplan-d", "numbers of tokens", first)
    return Fit(KaplanTokens(alpha, scale), found.objective, len(table), tuple(found.judge(["alpha_D", "D_c"])))


def _line(
    column: np.ndarray, table: Table, law: str, what: str, first: tuple[float, float] | None
) -> tuple[tuple[float, float], huber.Minimum]:
    """Returns alpha and x_c of (x_c / x)^alpha: a straight line in logs."""
    if len(np.unique(column)) < 3:
        raise UserError(f"{law} has 2 numbers to fit: it needs runs of 3 {what}; {len(np.unique(column))} here")
    middle, log_loss = np.log(column).mean(), np.log(table.loss)
    x = np.log(column) - middle

    def residuals(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        level, alpha = at
        return level - alpha * x - log_loss, np.stack([np.ones_like(x), -x], axis=1)

    slope, level = np.polyfit(x, log_loss, 1) if first is None else (-first[0], first[0] * (np.log(first[1]) - middle))
    found = huber.minimise(residuals, np.array([level, -slope]), np.array([-20.0, 1e-4]), np.array([20.0, 10.0]))
    level, alpha = (float(value) for value in found.at)
    return (alpha, math.exp(min(level / alpha + middle, 700.0))), found


def _start(x: np.ndarray, y: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Returns the best of a grid of both exponents: for each, L^(1 / alpha_D) is linear in what is left."""

    def project(ratio: float, alpha_d: float) -> tuple[float, np.ndarray]:
        terms, power = np.stack([np.exp(-ratio * x), np.exp(-y)], axis=1), loss ** (1 / alpha_d)
        if not (np.isfinite(power).all() and (power > 1e-300).all()):
            return math.inf, np.zeros(4)
        factors, _ = nnls(terms / power[:, None], np.ones_like(loss))
        factors = np.maximum(factors, 1e-6 * factors.max())  # a term of nothing has no way back
        # Misfits in L^(1 / alpha_D) are of another size for each alpha_D; in log loss they compare.
        misfit = float(np.sum(np.abs(alpha_d * np.log(terms @ factors) - np.log(loss))))
        return misfit, np.array([*np.log(factors), ratio, alpha_d])

    grid = [(ratio, alpha) for ratio in np.geomspace(0.1, 10, 12) for alpha in np.geomspace(0.03, 1, 10)]
    misfit, first = min((project(*exponents) for exponents in grid), key=lambda found: found[0])
    if math.isinf(misfit):
        raise UserError(
            f"kaplan: losses from {loss.min():.3g} to {loss.max():.3g} are too far apart for it; look for runs "
            "that diverged"
        )
    return first
