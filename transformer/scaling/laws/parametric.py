"""The parametric law, L = E + A/N^alpha + B/D^beta (Chinchilla's approach 3), fitted to a minimum that is checked.

Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", section 3.3. Besiroglu et al. 2024, "Chinchilla
Scaling: A replication attempt", found the published numbers off the minimum: the optimizer had stopped early, on the
mean of the Huber losses where its default tolerance is too wide for it. Hence here: the sum; every start of a grid,
each from the best E, A and B for its exponents (variable projection); exact derivatives; and a second solver that must
not find better (descent.py).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws import descent
from transformer.scaling.laws.descent import Convergence, Headline, ParametricFit, Problem
from transformer.scaling.laws.how import How
from transformer.scaling.laws.law import Allocation, Law
from transformer.scaling.laws.table import RunTable

NUMBERS = 5
"""Number of the law's parameters."""
EXPONENTS = 0.01, 3.0
"""Bounds of alpha and beta: published ones lie between 0.05 and 0.7."""
SMALLEST = 1e-9
"""Least value of a term, as a share of the loss; a term this small counts as none."""
GRID = np.linspace(0.05, 1.1, 8)
"""Exponents that fits start from, each with each."""


@dataclasses.dataclass(frozen=True)
class Chinchilla(Law):
    """L = E + A/N^alpha + B/D^beta."""

    name: ClassVar[str] = "chinchilla"

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    @property
    def a(self) -> float:
        """N* ~ C^a."""
        return self.beta / (self.alpha + self.beta)

    def parameters(self) -> dict[str, float]:
        return {**dataclasses.asdict(self), "a": self.a, "b": 1 - self.a}

    def loss(self, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        with np.errstate(under="ignore"):
            return self.E + self.A * np.power(params, -self.alpha) + self.B * np.power(tokens, -self.beta)

    def optimum(self, flops: float) -> Allocation:
        """Returns G (C/6)^a and (C/6)^b / G, G = (alpha A / (beta B))^(1 / (alpha + beta)): their equation 4."""
        ratio = np.log(self.alpha * self.A) - np.log(self.beta * self.B)
        params = float(np.exp(ratio / (self.alpha + self.beta) + self.a * np.log(flops / 6)))
        return Allocation(params, flops / (6 * params))


@dataclasses.dataclass(frozen=True)
class Centred(Problem):
    """A form in the *centred* log sizes and log tokens, with the loss in units of its geometric mean.

    The factor A' is then the size term's part of the loss at the middle size, and hardly correlated with alpha, as A
    is. Where A is fixed, n is not centred and A' is A; likewise for d and B.
    """

    n: np.ndarray
    """[R] log N less `middle_n`."""
    d: np.ndarray
    """[R] log D less `middle_d`."""
    middle_n: float
    middle_d: float
    middle_y: float

    @staticmethod
    def centred(table: RunTable, how: How) -> dict[str, Any]:
        """Returns the fields other than the bounds, by name."""
        logs = {"n": np.log(table.params), "d": np.log(table.tokens), "y": np.log(table.loss)}
        known = {"n": "A" in how.fixed, "d": "B" in how.fixed, "y": False}
        middles = {name: 0.0 if known[name] else float(log.mean()) for name, log in logs.items()}
        fields = {name: log - middles[name] for name, log in logs.items()}
        return {"how": how, **fields, **{f"middle_{name}": middle for name, middle in middles.items()}}


@dataclasses.dataclass(frozen=True)
class Terms(Centred):
    """L_hat = E + A' exp(-alpha n) + B' exp(-beta d), theta = (E, A', B', alpha, beta).

    E, A' and B' are not logs, so that a fit can reach E = 0.
    """

    @classmethod
    def of(cls, table: RunTable, how: How = How()) -> "Terms":
        """Returns the problem of a table.

        Raises:
          UserError: a parameter cannot be fixed at the value that `how` gives it.
        """
        fixed = how.fixed
        highest, any_factor = float(table.loss.max()), (1e-300, 1e300)
        how.within(
            "chinchilla", {"E": (0, highest), "A": any_factor, "B": any_factor, "alpha": EXPONENTS, "beta": EXPONENTS}
        )
        centred = cls.centred(table, how)
        unit, top = math.exp(centred["middle_y"]), math.exp(float(centred["y"].max()))
        lower = np.array([*[SMALLEST] * 3, EXPONENTS[0], EXPONENTS[0]])
        # At the middle of the table no term is far above the highest loss.
        upper = np.array([top, 3 * top, 3 * top, EXPONENTS[1], EXPONENTS[1]])
        for k, (name, scale) in enumerate((("E", unit), ("A", unit), ("B", unit), ("alpha", 1.0), ("beta", 1.0))):
            if name in fixed:
                lower[k] = upper[k] = max(fixed[name] / scale, SMALLEST if name == "E" else 0.0)
        return cls(lower=lower, upper=upper, **centred)

    def _parts(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns L_hat, and its derivatives by A' and B': [K, R] each."""
        e, a, b, alpha, beta = (theta[:, k, None] for k in range(5))
        by_a, by_b = np.exp(-alpha * self.n), np.exp(-beta * self.d)
        return e + a * by_a + b * by_b, by_a, by_b

    def errors(self, theta: np.ndarray) -> np.ndarray:
        return np.log(self._parts(theta)[0]) - self.y

    def slopes(self, theta: np.ndarray) -> np.ndarray:
        loss, by_a, by_b = self._parts(theta)
        by_alpha, by_beta = -theta[:, 1, None] * by_a * self.n, -theta[:, 2, None] * by_b * self.d
        return np.stack([np.ones_like(loss), by_a, by_b, by_alpha, by_beta], -1) / loss[..., None]

    def bends(self, theta: np.ndarray, pull: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        loss, by_a, by_b = self._parts(theta)
        # The second derivative of log L is L'' / L - J J^T.
        hessian = (slopes * -pull[..., None]).transpose(0, 2, 1) @ slopes
        share = pull / loss
        for level, exponent, x, by in ((1, 3, self.n, share * by_a), (2, 4, self.d, share * by_b)):
            crossed = by @ x
            hessian[:, level, exponent] -= crossed
            hessian[:, exponent, level] -= crossed
            hessian[:, exponent, exponent] += theta[:, level] * (by @ (x * x))
        return hessian

    def law(self, theta: np.ndarray) -> Chinchilla:
        unit = np.exp(self.middle_y)
        e, a, b, alpha, beta = (float(value) for value in theta)
        e = 0.0 if e <= SMALLEST * 1.001 else e
        large, small = np.exp(alpha * self.middle_n), np.exp(beta * self.middle_d)
        return Chinchilla(float(unit * e), float(unit * a * large), float(unit * b * small), alpha, beta)

    def theta(self, law: Chinchilla) -> np.ndarray:
        unit = np.exp(self.middle_y)
        a, b = law.A * np.exp(-law.alpha * self.middle_n), law.B * np.exp(-law.beta * self.middle_d)
        return np.array([law.E / unit, a / unit, b / unit, law.alpha, law.beta])

    def starts(self) -> np.ndarray:
        """Returns [K, 5]: for each pair of exponents of a grid, the E, A' and B' of least squared relative error."""
        grids = [GRID if self.free[k] else self.lower[k : k + 1] for k in (3, 4)]
        alpha, beta = (axis.ravel() for axis in np.meshgrid(*grids))
        held = np.where(self.free, np.nan, self.lower)[:3]
        return np.concatenate([project(alpha, beta, self.n, self.d, self.y, held), alpha[:, None], beta[:, None]], 1)

    def shown(self, theta: np.ndarray) -> list[tuple[str, str]]:
        levels = shown_levels(("E", "A/N^alpha", "B/D^beta"), theta)
        return [*levels, ("alpha", f"{theta[3]:.3g}"), ("beta", f"{theta[4]:.3g}")]

    def headlines(self, law: Chinchilla) -> Mapping[str, Headline]:
        return {"a": Headline(law.a, 0.01)}


def shown_levels(names: Sequence[str], theta: np.ndarray) -> list[tuple[str, str]]:
    """Returns the names of the first parameters, which are levels of the loss, and what a bound means for each."""
    return [(name, "0" if theta[k] < 1e-6 else "as large as the loss") for k, name in enumerate(names)]


def project(
    alpha: np.ndarray, beta: np.ndarray, n: np.ndarray, d: np.ndarray, y: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """Returns E, A' and B' [K, 3] of least squared relative error for each pair of exponents.

    Variable projection (Golub and Pereyra 1973): with the exponents fixed the law is linear in the rest.

    Args:
      alpha: [K].
      beta: [K].
      n: [R] centred log sizes.
      d: [R] centred log tokens.
      y: [R] log loss.
      held: [3] the fixed factors; NaN for those to find.
    """
    terms = [np.ones((len(alpha), len(n))), np.exp(-alpha[:, None] * n), np.exp(-beta[:, None] * d)]
    terms = np.stack(terms, -1) * np.exp(-y)[:, None]
    free = np.isnan(held)
    rest = 1 - terms[..., ~free] @ held[~free]
    terms = terms[..., free]
    normal = terms.transpose(0, 2, 1) @ terms + 1e-12 * np.eye(int(free.sum()))
    factors = np.tile(held, (len(terms), 1))
    # A term that least squares would have negative starts small.
    factors[:, free] = np.maximum(
        np.linalg.solve(normal, np.einsum("krp,kr->kp", terms, rest)[..., None])[..., 0], 1e-3
    )
    return factors


def fit(table: RunTable, how: How = How()) -> ParametricFit:
    """Fits E, A, B, alpha and beta, except those that `how` fixes, under its objective.

    Raises:
      UserError: the table cannot tell the numbers: too few cells, sizes or tokens, one ratio of tokens to size, or
        losses that do not fall with the size, or with the tokens.
    """
    how.check("chinchilla", [field.name for field in dataclasses.fields(Chinchilla)])
    _require(table, NUMBERS - len(how.fixed))
    problem = Terms.of(table, how)
    fitted = descent.fit(problem)
    assert isinstance(fitted.law, Chinchilla)
    theta = problem.theta(fitted.law)
    for term, what in ((1, "size"), (2, "number of tokens")):
        if problem.free[term] and theta[term] <= SMALLEST * 1.001:
            raise UserError(
                f"chinchilla: the losses of these {len(table)} runs do not fall with the {what}; look for runs that "
                "diverged or that were measured otherwise, or add runs further apart"
            )
    return fitted


def check_convergence(table: RunTable, law: Chinchilla) -> Convergence:
    """Returns how near the minimum of a table's summed Huber loss a law is, whoever fitted it."""
    problem = Terms.of(table)
    best = problem.solve(problem.starts())
    return descent.check_convergence(problem, problem.theta(law), others=[best.theta[int(np.argmin(best.objective))]])


def _require(table: RunTable, numbers: int) -> None:
    descent.require_cells(table, "chinchilla", numbers)
    for column, what in ((table.params, "sizes"), (table.tokens, "numbers of tokens")):
        # Sizes within a percent are one: it takes three to see a power law end in a floor.
        distinct = len(np.unique(np.round(np.log(column), 2)))
        if distinct < 3:
            raise UserError(f"chinchilla needs runs of three {what} or more; {distinct} here: add runs")
    descent.require_ratios(table, "chinchilla", "size and tokens look alike", 0.02)
