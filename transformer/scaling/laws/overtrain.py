"""Over-training: the loss of models that are smaller, and read more tokens, than is best for their budget.

Gadre et al. 2024, "Language models scale reliably with over-training and on downstream tasks", equation 4. It is
Chinchilla's form with alpha = beta = 2 eta, written in the budget C = 6 N D and the multiplier M = D / N: at every M
the loss falls as C^-eta, and M moves the factor alone.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from transformer.scaling.laws import descent
from transformer.scaling.laws.descent import Headline, ParametricFit, Problem
from transformer.scaling.laws.how import How
from transformer.scaling.laws.law import Allocation, Law
from transformer.scaling.laws.parametric import Chinchilla, Terms, project, shown_levels
from transformer.scaling.laws.table import RunTable


@dataclasses.dataclass(frozen=True)
class OverTrain(Law):
    """L(C, M) = E + (a M^eta + b M^-eta) C^-eta; a and b are the paper's factors, not exponents of an allocation."""

    name: ClassVar[str] = "overtrain"

    E: float
    a: float
    b: float
    eta: float

    def loss(self, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        params, tokens = np.asarray(params, np.float64), np.asarray(tokens, np.float64)
        flops, multiplier = 6 * params * tokens, tokens / params
        return self.E + (self.a * multiplier**self.eta + self.b * multiplier**-self.eta) * flops**-self.eta

    def optimum(self, flops: float) -> Allocation:
        multiplier = self.multiplier()
        return Allocation(math.sqrt(flops / (6 * multiplier)), math.sqrt(flops * multiplier / 6))

    def multiplier(self) -> float:
        """Returns M*, the tokens per parameter of the lowest loss: the same at every budget."""
        return (self.b / self.a) ** (1 / (2 * self.eta))


_TIE = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 2], [0, 0, 0, 2]])
"""[5, 4]: maps (E, A', B', eta) to Chinchilla's parameters."""
_ETA = 1e-3, 2.0


@dataclasses.dataclass(frozen=True)
class Tied(Problem):
    """Chinchilla's problem with alpha = beta = 2 eta, theta = (E, A', B', eta): A = a 6^-eta, B = b 6^-eta."""

    plain: Terms
    """Chinchilla's problem with log N and log D raised by log(6) / 2, so that its factors are a and b."""

    @classmethod
    def of(cls, table: RunTable, how: How = How()) -> "Tied":
        any_factor = 1e-300, 1e300
        how.within("overtrain", {"E": (0.0, float(table.loss.max())), "a": any_factor, "b": any_factor, "eta": _ETA})
        six = math.sqrt(6)
        raised = dataclasses.replace(table, params=six * table.params, tokens=six * table.tokens)
        names = {"E": "E", "a": "A", "b": "B"}
        fixed = {names[name]: value for name, value in how.fixed.items() if name in names}
        plain = Terms.of(raised, dataclasses.replace(how, fixed=fixed))
        eta = [how.fixed["eta"]] * 2 if "eta" in how.fixed else _ETA
        lower, upper = np.array([*plain.lower[:3], eta[0]]), np.array([*plain.upper[:3], eta[1]])
        return cls(plain.y, how, lower, upper, plain)

    def errors(self, theta: np.ndarray) -> np.ndarray:
        return self.plain.errors(theta @ _TIE.T)

    def slopes(self, theta: np.ndarray) -> np.ndarray:
        return self.plain.slopes(theta @ _TIE.T) @ _TIE

    def bends(self, theta: np.ndarray, pull: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        whole = theta @ _TIE.T
        return _TIE.T @ self.plain.bends(whole, pull, self.plain.slopes(whole)) @ _TIE

    def law(self, theta: np.ndarray) -> OverTrain:
        law = self.plain.law(_TIE @ theta)
        return OverTrain(law.E, law.A, law.B, law.alpha / 2)

    def theta(self, law: OverTrain) -> np.ndarray:
        return self.plain.theta(Chinchilla(law.E, law.a, law.b, 2 * law.eta, 2 * law.eta))[:4] / (1, 1, 1, 2)

    def starts(self) -> np.ndarray:
        """Returns [K, 4]: a grid of eta; for each, the other three are linear."""
        eta = np.geomspace(0.02, 1, 20) if self.free[3] else self.lower[3:]
        held = np.where(self.free, np.nan, self.lower)[:3]
        levels = project(2 * eta, 2 * eta, self.plain.n, self.plain.d, self.y, held)
        return np.concatenate([levels, eta[:, None]], 1)

    def shown(self, theta: np.ndarray) -> list[tuple[str, str]]:
        return [*shown_levels(("E", "a", "b"), theta), ("eta", f"{theta[3]:.3g}")]

    def headlines(self, law: OverTrain) -> Mapping[str, Headline]:
        return {"eta": Headline(law.eta, 0.01)}


def fit(table: RunTable, how: How = How()) -> ParametricFit:
    """Fits E, a, b and eta, except those that `how` fixes, under its objective.

    Args:
      table: runs of five cells or more, with more than one ratio of tokens to parameters.
      how: the objective and the fixed parameters.

    Raises:
      UserError: the table has too few cells, or one ratio alone.
    """
    how.check("overtrain", [field.name for field in dataclasses.fields(OverTrain)])
    descent.require_cells(table, "overtrain", 4 - len(how.fixed))
    descent.require_ratios(table, "overtrain", "a and b look alike")
    return descent.fit(Tied.of(table, how))
