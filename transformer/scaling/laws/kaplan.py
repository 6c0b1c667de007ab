"""Kaplan's laws: the loss as a function of model size, of tokens, and of both, without an irreducible loss.

Kaplan et al. 2020, "Scaling Laws for Neural Language Models", equations 1.1, 1.2 and 1.5. N there leaves the
embeddings out. The laws in steps and batch size (equations 1.4 and 1.6) need more than a table of final losses.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from scipy.optimize import nnls

from transformer.errors import UserError
from transformer.scaling.laws import descent
from transformer.scaling.laws.descent import Headline, ParametricFit, Problem
from transformer.scaling.laws.how import How
from transformer.scaling.laws.law import Allocation, Law
from transformer.scaling.laws.table import RunTable


@dataclasses.dataclass(frozen=True)
class OneVariable(Law):
    """L(x) = (x_c / x)^alpha, without a best size of a budget. A subclass has alpha and x_c, and `reads` x."""

    def loss(self, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        alpha, scale = dataclasses.astuple(self)
        params, tokens = np.broadcast_arrays(np.asarray(params, np.float64), np.asarray(tokens, np.float64))
        return (scale / {"params": params, "tokens": tokens}[self.reads[0]]) ** alpha

    def optimum(self, flops: float) -> Allocation:
        return Allocation(math.nan, math.nan)


@dataclasses.dataclass(frozen=True)
class KaplanParams(OneVariable):
    """L(N) = (N_c / N)^alpha_N, equation 1.1: models trained to convergence, on more tokens than they can use."""

    name: ClassVar[str] = "kaplan-n"
    reads: ClassVar[tuple[str, ...]] = ("params",)

    alpha_N: float
    N_c: float


@dataclasses.dataclass(frozen=True)
class KaplanTokens(OneVariable):
    """L(D) = (D_c / D)^alpha_D, equation 1.2: models too large for their tokens, stopped before they overfit."""

    name: ClassVar[str] = "kaplan-d"
    reads: ClassVar[tuple[str, ...]] = ("tokens",)

    alpha_D: float
    D_c: float


@dataclasses.dataclass(frozen=True)
class Kaplan(Law):
    """L(N, D) = ((N_c / N)^(alpha_N / alpha_D) + D_c / D)^alpha_D, equation 1.5."""

    name: ClassVar[str] = "kaplan"

    alpha_N: float
    alpha_D: float
    N_c: float
    D_c: float

    @property
    def a(self) -> float:
        """N* ~ C^a."""
        return self.alpha_D / (self.alpha_N + self.alpha_D)

    def loss(self, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        params, tokens = np.asarray(params, np.float64), np.asarray(tokens, np.float64)
        return ((self.N_c / params) ** (self.alpha_N / self.alpha_D) + self.D_c / tokens) ** self.alpha_D

    def optimum(self, flops: float) -> Allocation:
        # With D = C / (6 N), the derivative of (N_c / N)^r + 6 D_c N / C is zero. The paper's own C^0.73 (equation
        # 1.7) is another question: its batch size grows with C, and its models stop short of the tokens' end.
        ratio = self.alpha_N / self.alpha_D
        params = (ratio * self.N_c**ratio * flops / (6 * self.D_c)) ** (1 / (1 + ratio))
        return Allocation(params, flops / (6 * params))


@dataclasses.dataclass(frozen=True)
class Joint(Problem):
    """log L_hat = alpha_D log(exp(p - alpha_N / alpha_D x) + exp(q - y)), theta = (p, q, alpha_N, alpha_D), centred."""

    x: np.ndarray
    """[R] log N less `middle_n`, which is log N_c where that is fixed: p is then 0."""
    d: np.ndarray
    """[R] log D less `middle_d`, likewise."""
    middle_n: float
    middle_d: float

    @classmethod
    def of(cls, table: RunTable, how: How = How()) -> "Joint":
        fixed = how.fixed
        how.within("kaplan", {"alpha_N": _BOUNDS, "alpha_D": _BOUNDS, "N_c": _ANY, "D_c": _ANY})
        n, d = np.log(table.params), np.log(table.tokens)
        middle_n = math.log(fixed["N_c"]) if "N_c" in fixed else float(n.mean())
        middle_d = math.log(fixed["D_c"]) if "D_c" in fixed else float(d.mean())
        lower, upper = np.array([-500.0, -500.0, *[_BOUNDS[0]] * 2]), np.array([500.0, 500.0, *[_BOUNDS[1]] * 2])
        for k, name in enumerate(("N_c", "D_c", "alpha_N", "alpha_D")):
            if name in fixed:
                lower[k] = upper[k] = 0.0 if k < 2 else fixed[name]
        return cls(np.log(table.loss), how, lower, upper, n - middle_n, d - middle_d, middle_n, middle_d)

    def _parts(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the log of the sum and the size term's share of it [K, R], and alpha_N and alpha_D [K, 1]."""
        p, q, alpha_n, alpha_d = (theta[:, k, None] for k in range(4))
        size, data = p - alpha_n / alpha_d * self.x, q - self.d
        total = np.logaddexp(size, data)
        return total, np.exp(size - total), np.stack([alpha_n, alpha_d])

    def _gradients(self, share: np.ndarray, exponents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the derivatives of the log of the sum, of the size term and of the tokens' term: [K, R, 4]."""
        alpha_n, alpha_d = exponents
        size, data = np.zeros((2, *share.shape, 4))
        size[..., 0], data[..., 1] = 1, 1
        size[..., 2], size[..., 3] = -self.x / alpha_d, alpha_n * self.x / alpha_d**2
        return share[..., None] * size + (1 - share)[..., None] * data, size, data

    def errors(self, theta: np.ndarray) -> np.ndarray:
        return theta[:, 3, None] * self._parts(theta)[0] - self.y

    def slopes(self, theta: np.ndarray) -> np.ndarray:
        total, share, exponents = self._parts(theta)
        gradients = exponents[1][..., None] * self._gradients(share, exponents)[0]
        gradients[..., 3] += total
        return gradients

    def bends(self, theta: np.ndarray, pull: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        _, share, exponents = self._parts(theta)
        (alpha_n, alpha_d), pull_d = exponents, pull * exponents[1]
        total, size, data = self._gradients(share, exponents)
        apart = size - data
        hessian = (apart * (pull_d * share * (1 - share))[..., None]).transpose(0, 2, 1) @ apart
        crossed = np.sum(pull_d * share * self.x / alpha_d**2, 1)
        hessian[:, 2, 3] += crossed
        hessian[:, 3, 2] += crossed
        hessian[:, 3, 3] += np.sum(pull_d * share * -2 * alpha_n * self.x / alpha_d**3, 1)
        row = np.einsum("kr,krp->kp", pull, total)
        hessian[:, 3] += row
        hessian[:, :, 3] += row
        return hessian

    def law(self, theta: np.ndarray) -> Kaplan:
        p, q, alpha_n, alpha_d = (float(value) for value in theta)
        return Kaplan(alpha_n, alpha_d, _exp(p * alpha_d / alpha_n + self.middle_n), _exp(q + self.middle_d))

    def theta(self, law: Kaplan) -> np.ndarray:
        p = law.alpha_N / law.alpha_D * (math.log(law.N_c) - self.middle_n)
        return np.array([p, math.log(law.D_c) - self.middle_d, law.alpha_N, law.alpha_D])

    def starts(self) -> np.ndarray:
        """Returns [K, 4]: a grid of both exponents; for each pair, L^(1 / alpha_D) is linear in the other two."""
        ratios, alphas = np.geomspace(0.1, 10, 6), np.geomspace(0.03, 1, 6)
        points = []
        for first in ratios if self.free[2] else self.lower[2:3]:
            for alpha_d in alphas if self.free[3] else self.lower[3:4]:
                alpha_n = float(np.clip(first * alpha_d, *_BOUNDS)) if self.free[2] else first
                terms, power = np.stack([-alpha_n / alpha_d * self.x, -self.d], axis=1), self.y[:, None] / alpha_d
                factors, _ = nnls(np.exp(np.minimum(terms - power, 300)), np.ones_like(self.y))
                factors = np.maximum(factors, 1e-6 * factors.max())  # a term of zero would stay zero
                factors = np.log(np.maximum(factors, 1e-200))
                points.append([*np.where(self.free[:2], factors, 0.0), alpha_n, alpha_d])
        return np.array(points)

    def shown(self, theta: np.ndarray) -> list[tuple[str, str]]:
        law = self.law(theta)
        return [(name, f"{getattr(law, name):.3g}") for name in ("N_c", "D_c", "alpha_N", "alpha_D")]

    def headlines(self, law: Kaplan) -> Mapping[str, Headline]:
        return {"a": Headline(law.a, 0.01)}


@dataclasses.dataclass(frozen=True)
class Line(Problem):
    """log L_hat = level - alpha x, theta = (level, alpha), of a law of one variable."""

    form: type[OneVariable]
    x: np.ndarray
    """[R] log of the size or the tokens less `middle`, which is log x_c where that is fixed: level is then 0."""
    middle: float

    @classmethod
    def of(cls, table: RunTable, how: How, form: type[OneVariable]) -> "Line":
        column = getattr(table, form.reads[0])
        alpha, scale = _names(form)
        how.within(form.name, {alpha: _BOUNDS, scale: _ANY})
        middle = math.log(how.fixed[scale]) if scale in how.fixed else float(np.log(column).mean())
        lower, upper = np.array([-20.0, 1e-4]), np.array([20.0, 10.0])
        if scale in how.fixed:
            lower[0] = upper[0] = 0.0
        if alpha in how.fixed:
            lower[1] = upper[1] = how.fixed[alpha]
        return cls(np.log(table.loss), how, lower, upper, form, np.log(column) - middle, middle)

    def errors(self, theta: np.ndarray) -> np.ndarray:
        return theta[:, :1] - theta[:, 1:] * self.x - self.y

    def slopes(self, theta: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.stack([np.ones_like(self.x), -self.x], axis=1), (len(theta), len(self.x), 2))

    def bends(self, theta: np.ndarray, pull: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        return np.zeros((len(theta), 2, 2))

    def law(self, theta: np.ndarray) -> Law:
        values = float(theta[1]), _exp(float(theta[0] / theta[1]) + self.middle)
        return self.form(**dict(zip(_names(self.form), values, strict=True)))

    def theta(self, law: OneVariable) -> np.ndarray:
        alpha, scale = dataclasses.astuple(law)
        return np.array([alpha * (math.log(scale) - self.middle), alpha])

    def starts(self) -> np.ndarray:
        """Returns [1, 2]: the line of least squares; the objective is convex."""
        slope, level = np.polyfit(self.x, self.y, 1)
        return np.array([[level, -slope]])

    def shown(self, theta: np.ndarray) -> list[tuple[str, str]]:
        alpha, scale = _names(self.form)
        law = self.law(theta).parameters()
        return [(scale, f"{law[scale]:.3g}"), (alpha, f"{law[alpha]:.3g}")]

    def headlines(self, law: Law) -> Mapping[str, Headline]:
        alpha = _names(self.form)[0]
        return {alpha: Headline(law.parameters()[alpha], 0.01)}


def fit(table: RunTable, how: How = How()) -> ParametricFit:
    """Fits Kaplan's L(N, D), except the parameters that `how` fixes, under its objective.

    Args:
      table: runs of five cells or more, of more than one size and more than one number of tokens.
      how: the objective and the fixed parameters.

    Raises:
      UserError: the table has too few cells, one size or number of tokens alone, or losses that do not fall with the
        size: then N_c is beyond any float.
    """
    how.check("kaplan", [field.name for field in dataclasses.fields(Kaplan)])
    for column, what, other in (
        (table.params, "size", "kaplan-d fits the tokens"),
        (table.tokens, "number of tokens", "kaplan-n fits the size"),
    ):
        if len(np.unique(column)) == 1:
            raise UserError(f"kaplan: every run has the same {what}, {column[0]:.3g}; --law {other} alone")
    descent.require_cells(table, "kaplan", 4 - len(how.fixed))
    fitted = descent.fit(Joint.of(table, how))
    if abs(math.log(fitted.law.parameters()["N_c"])) > _FARTHEST - 1e-6:
        raise UserError(
            "kaplan: the losses of these runs do not fall with the size; --law kaplan-d fits the tokens alone"
        )
    return fitted


def fit_params(table: RunTable, how: How = How()) -> ParametricFit:
    """Fits Kaplan's L(N), except the parameters that `how` fixes, under its objective."""
    return _fit_line(table, KaplanParams, table.params, "sizes", how)


def fit_tokens(table: RunTable, how: How = How()) -> ParametricFit:
    """Fits Kaplan's L(D), except the parameters that `how` fixes, under its objective."""
    return _fit_line(table, KaplanTokens, table.tokens, "numbers of tokens", how)


def _fit_line(table: RunTable, form: type[OneVariable], column: np.ndarray, what: str, how: How) -> ParametricFit:
    how.check(form.name, _names(form))
    if len(np.unique(column)) < 3:
        raise UserError(f"{form.name} has 2 numbers to fit: it needs runs of 3 {what}; {len(np.unique(column))} here")
    return descent.fit(Line.of(table, how, form))


def _names(form: type[Law]) -> tuple[str, str]:
    """Returns the names of the exponent and of the scale."""
    alpha, scale = (field.name for field in dataclasses.fields(form))
    return alpha, scale


def _exp(value: float) -> float:
    """Returns e^value, kept within the floats: at a bound it may be beyond any."""
    return math.exp(min(max(value, -_FARTHEST), _FARTHEST))


_FARTHEST = 700.0
"""Largest log of a scale that a float holds."""


_BOUNDS = 1e-3, 10.0
"""Bounds of the joint law's exponents."""
_ANY = 1e-300, 1e300
