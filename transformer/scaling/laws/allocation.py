"""The best size, the best tokens and the lowest loss as power laws of the budget: what IsoFLOP and envelope share."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import numpy as np
from scipy.optimize import fminbound

from transformer.errors import UserError
from transformer.scaling.laws.law import LEAST_FALL, Allocation, Law, Warned


class Optima(NamedTuple):
    """The best use of each of K budgets, as measured."""

    flops: np.ndarray
    """[K] C."""
    params: np.ndarray
    """[K] N*."""
    tokens: np.ndarray
    """[K] D*."""
    loss: np.ndarray
    """[K] L*, nats."""


@dataclasses.dataclass(frozen=True)
class AllocationLaw(Law):
    """N*(C) = k_N C^a, D*(C) = k_D C^b, L*(C) = E + k_L C^-gamma; C as the table counts it.

    Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", section 3: N_opt ~ C^a, D_opt ~ C^b. It
    gives the best model of a budget and its loss, but no loss of any other model: `loss` is NaN.
    """

    reads: ClassVar[tuple[str, ...]] = ()

    k_N: float
    a: float
    k_D: float
    b: float
    E: float
    """Irreducible loss; NaN, as are k_L and gamma, where the budgets do not determine it."""
    k_L: float
    gamma: float

    def loss(self, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        return np.full(np.broadcast(params, tokens).shape, np.nan)

    def optimum(self, flops: float) -> Allocation:
        return Allocation(self.k_N * flops**self.a, self.k_D * flops**self.b)

    def optimal_loss(self, flops: float) -> float:
        return self.E + self.k_L * flops**-self.gamma


@dataclasses.dataclass(frozen=True)
class PairsLaw(AllocationLaw):
    """N*(C) = k_N C^a, D* = C / (6 N*), without a loss."""

    name: ClassVar[str] = "pairs"
    fitted_to: ClassVar[str] = "pair"


def require_falling(optima: Optima, law: str) -> None:
    """Raises UserError, which names the law, for budgets whose lowest loss does not fall as they grow."""
    fall = -power(optima.flops, optima.loss)[1] * np.ptp(np.log(optima.flops))
    if fall < LEAST_FALL:
        least, most = int(np.argmin(optima.flops)), int(np.argmax(optima.flops))
        raise UserError(
            f"{law}: the lowest loss does not fall as the budget grows: it is {optima.loss[least]:.4g} at "
            f"{optima.flops[least]:.3g} FLOPs and {optima.loss[most]:.4g} at {optima.flops[most]:.3g}; look for runs "
            "that diverged or that were measured otherwise"
        )


def growth(optima: Optima) -> tuple[dict[str, float], list[Warned]]:
    """Returns an AllocationLaw's fields, fitted to two optima or more, and warnings.

    The allocation by ordinary least squares in logs; the loss by least squares of its relative error.
    """
    k_n, a = power(optima.flops, optima.params)
    k_d, b = power(optima.flops, optima.tokens)
    energy, k_l, gamma, warned = _saturating(optima.flops, optima.loss)
    return {"k_N": k_n, "a": a, "k_D": k_d, "b": b, "E": energy, "k_L": k_l, "gamma": gamma}, warned


def power(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Returns k and the exponent of y = k x^exponent: ordinary least squares in logs."""
    log_x, log_y = np.log(x), np.log(y)
    centred = log_x - log_x.mean()
    exponent = float(centred @ log_y / (centred @ centred))
    return float(np.exp(log_y.mean() - exponent * log_x.mean())), exponent


_FLATTEST, _STEEPEST = 1e-3, 2.0
"""Range of gamma that is searched: beyond, the loss is a constant and a straight line, or a constant and a step."""


def _saturating(flops: np.ndarray, loss: np.ndarray) -> tuple[float, float, float, list[Warned]]:
    """Returns E >= 0, k and gamma of E + k C^-gamma by variable projection, so that gamma alone is searched."""
    if len(np.unique(flops)) < 3:
        line = "fewer than three budgets: their lowest losses do not say E, k_L and gamma; add a budget"
        return math.nan, math.nan, math.nan, [Warned("loss-unidentified", line)]
    middle = float(np.exp(np.log(flops).mean()))
    weights = loss**-2 / np.sum(loss**-2)
    level = weights @ loss

    def project(gammas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the best E and k middle^-gamma for each gamma, and their sum of squares."""
        fall_gk = (flops / middle) ** -gammas[:, None]
        mean = fall_gk @ weights
        centred_gk = fall_gk - mean[:, None]
        k = centred_gk @ (weights * (loss - level)) / (centred_gk**2 @ weights)
        energy = level - k * mean
        k = np.where(energy < 0, fall_gk @ (weights * loss) / (fall_gk**2 @ weights), k)
        energy = np.maximum(energy, 0)
        return energy, k, np.sum(((energy[:, None] + k[:, None] * fall_gk) / loss - 1) ** 2, axis=1)

    grid = np.geomspace(_FLATTEST, _STEEPEST, 40)
    best = int(np.argmin(project(grid)[2]))
    bounds = np.log(grid[max(best - 1, 0)]), np.log(grid[min(best + 1, len(grid) - 1)])
    gamma = float(np.exp(fminbound(lambda log_gamma: project(np.exp([log_gamma]))[2][0], *bounds, xtol=1e-12)))
    energy, k = (float(value[0]) for value in project(np.array([gamma]))[:2])
    if k <= 0 or not 1.001 * _FLATTEST < gamma < 0.999 * _STEEPEST:
        line = "the lowest losses do not fall as E + k_L C^-gamma; add budgets, or repeats against the noise"
        return math.nan, math.nan, math.nan, [Warned("loss-unidentified", line)]
    warned = []
    if len(np.unique(flops)) == 3:
        line = "three budgets: E, k_L and gamma go through them exactly, and nothing tells how well; add a budget"
        warned.append(Warned("no-freedom", line))
    if energy == 0:
        line = "E is at its bound of 0: the lowest losses do not bend towards a floor; widen the range of budgets"
        warned.append(Warned("parameter-at-bound", line))
    return energy, k * middle**gamma, gamma, warned
