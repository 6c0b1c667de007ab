"""Fitting the law of repeated data: all seven numbers at once, from a grid of starts, with exact derivatives."""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws import descent
from transformer.scaling.laws.descent import Headline, ParametricFit
from transformer.scaling.laws.how import How
from transformer.scaling.laws.law import Law, Warned
from transformer.scaling.laws.parametric import EXPONENTS, SMALLEST, Centred, project
from transformer.scaling.laws.repeat import Repeat
from transformer.scaling.laws.table import RunTable

_PUBLISHED = 15.387756, 5.309743
"""The paper's R_D* and R_N*."""
_DECAYS = 1e-2, 1e4
"""Bounds of R_D* and R_N*."""
_STEEPNESS = np.array([0.1, 0.25, 0.45, 0.8, 1.4])
"""Exponents that fits start from, each with each."""
_WORTHS = [(worth_d, worth_n) for worth_d in (3.0, _PUBLISHED[0], 80.0) for worth_n in (0.7, _PUBLISHED[1])]
"""R_D* and R_N* that fits start from."""


class _Excess(NamedTuple):
    """M = log x' with its derivatives by V = log u and p = log R*, which are 0 where nothing is in excess."""

    m: np.ndarray
    v: np.ndarray
    p: np.ndarray
    vv: np.ndarray
    vp: np.ndarray
    pp: np.ndarray


def _excess(x: np.ndarray, v: np.ndarray, p: np.ndarray) -> _Excess:
    """Returns `repeat.decayed` with its derivatives, at log x, log u and log R* that broadcast."""
    scale = np.exp(p)
    over = x > v
    beyond = np.expm1(np.clip(x - v, 0, 60))
    share = beyond / scale
    left, lost = np.exp(-share), -np.expm1(-share)
    worth = 1 + scale * lost
    by_p = (scale * lost - left * beyond) / worth
    fall = (beyond + 1) * left / worth
    return _Excess(
        np.where(over, v + np.log(worth), x),
        np.where(over, 1 - fall, 0.0),
        np.where(over, by_p, 0.0),
        np.where(over, fall * (1 - (beyond + 1) / scale - fall), 0.0),
        np.where(over, -fall * (share - by_p), 0.0),
        np.where(over, by_p - left * beyond * share / worth - by_p**2, 0.0),
    )


@dataclasses.dataclass(frozen=True)
class RepeatTerms(Centred):
    """L_hat = E + exp(g_1) + exp(g_2), theta = (E, log A', log B', alpha, beta, log R_D*, log R_N*), centred.

    g_1 = log A' - alpha log N' and g_2 = log B' - beta log D'; the size that N' decays beyond is exp(V),
    V = (log(alpha A' / (beta B')) + beta u) / alpha, so that N' depends on all of Chinchilla's numbers.
    """

    u: np.ndarray
    """[R] log of the unique tokens less `middle_d`."""

    @classmethod
    def of(cls, table: RunTable, how: How = How()) -> "RepeatTerms":
        """Returns the problem of a table with unique tokens.

        Raises:
          UserError: a parameter cannot be fixed at the value that `how` gives it.
        """
        fixed = how.fixed
        bounds = {"E": (0.0, float(table.loss.max())), "A": (1e-300, 1e300), "B": (1e-300, 1e300)}
        bounds |= {"alpha": EXPONENTS, "beta": EXPONENTS, "R_D": _DECAYS, "R_N": _DECAYS}
        how.within("repeat", bounds)
        assert table.unique_tokens is not None
        centred = cls.centred(table, how)
        u = np.log(np.minimum(table.tokens, table.unique_tokens)) - centred["middle_d"]
        middle_y, top = centred["middle_y"], float(centred["y"].max())
        lower = np.array([SMALLEST, -20.0, -20.0, *[EXPONENTS[0]] * 2, *[math.log(_DECAYS[0])] * 2])
        upper = np.array([math.exp(top), *[top + math.log(3)] * 2, *[EXPONENTS[1]] * 2, *[math.log(_DECAYS[1])] * 2])
        places = {"alpha": 3, "beta": 4}
        for name, value in fixed.items():
            if name == "E":
                lower[0] = upper[0] = max(value / math.exp(middle_y), SMALLEST)
            elif name in places:
                lower[places[name]] = upper[places[name]] = value
            else:
                place = {"A": 1, "B": 2, "R_D": 5, "R_N": 6}[name]
                lower[place] = upper[place] = math.log(value) - (middle_y if place < 3 else 0.0)
        return cls(lower=lower, upper=upper, u=u, **centred)

    def _log_unique(self, theta: np.ndarray) -> np.ndarray:
        """Returns V [K, R]."""
        log_a, log_b, alpha, beta = (theta[:, k, None] for k in range(1, 5))
        return (np.log(alpha / beta) + log_a - log_b + beta * self.u) / alpha

    def _parts(self, theta: np.ndarray) -> tuple[np.ndarray, _Excess, _Excess, np.ndarray, np.ndarray]:
        """Returns V, log N' and log D' with derivatives, and the two terms: [K, R]."""
        v = self._log_unique(theta)
        large = _excess(self.n, v, theta[:, 6, None])
        small = _excess(self.d, self.u, theta[:, 5, None])
        by_n = np.exp(np.minimum(theta[:, 1, None] - theta[:, 3, None] * large.m, 300))
        by_d = np.exp(np.minimum(theta[:, 2, None] - theta[:, 4, None] * small.m, 300))
        return v, large, small, by_n, by_d

    def _gradients(
        self, theta: np.ndarray, v: np.ndarray, large: _Excess, small: _Excess
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the derivatives of V, g_1 and g_2 by theta: [K, R, 7]."""
        alpha, beta = theta[:, 3, None], theta[:, 4, None]
        of_v, of_1, of_2 = np.zeros((3, *v.shape, 7))
        of_v[..., 1], of_v[..., 2] = 1 / alpha, -1 / alpha
        of_v[..., 3], of_v[..., 4] = (1 / alpha - v) / alpha, (self.u - 1 / beta) / alpha
        of_1 -= (alpha * large.v)[..., None] * of_v
        of_1[..., 1] += 1
        of_1[..., 3] -= large.m
        of_1[..., 6] -= alpha * large.p
        of_2[..., 2], of_2[..., 4], of_2[..., 5] = 1, -small.m, -beta * small.p
        return of_v, of_1, of_2

    def errors(self, theta: np.ndarray) -> np.ndarray:
        *_, by_n, by_d = self._parts(theta)
        return np.log(theta[:, 0, None] + by_n + by_d) - self.y

    def slopes(self, theta: np.ndarray) -> np.ndarray:
        v, large, small, by_n, by_d = self._parts(theta)
        _, of_1, of_2 = self._gradients(theta, v, large, small)
        loss = theta[:, 0, None] + by_n + by_d
        gradients = (by_n / loss)[..., None] * of_1 + (by_d / loss)[..., None] * of_2
        gradients[..., 0] = 1 / loss
        return gradients

    def bends(self, theta: np.ndarray, pull: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        v, large, small, by_n, by_d = self._parts(theta)
        of_v, of_1, of_2 = self._gradients(theta, v, large, small)
        loss = theta[:, 0, None] + by_n + by_d
        of_n, of_d = pull * by_n / loss, pull * by_d / loss
        alpha, beta = theta[:, 3, None], theta[:, 4, None]
        # The second derivative of log L is L'' / L - J J^T; that of exp(g) is exp(g) (g'' + g' g'^T).
        hessian = _outer(of_n, of_1) + _outer(of_d, of_2) - _outer(pull, slopes)
        hessian += _outer(-alpha * of_n * large.vv, of_v)
        by_alpha = np.einsum("kr,krp->kp", -of_n * large.v, of_v)
        by_alpha[:, 6] -= np.einsum("kr,kr->k", of_n, large.p)
        by_worth = np.einsum("kr,krp->kp", -alpha * of_n * large.vp, of_v)
        for place, row in ((3, by_alpha), (6, by_worth)):
            hessian[:, place] += row
            hessian[:, :, place] += row
        hessian[:, 6, 6] += np.sum(-alpha * of_n * large.pp, 1)
        # V's own second derivatives.
        through = -alpha * of_n * large.v
        total, exponent, other = through.sum(1), theta[:, 3], theta[:, 4]
        squared = total / exponent**2
        for place, sign in ((1, -1), (2, 1)):
            hessian[:, place, 3] += sign * squared
            hessian[:, 3, place] += sign * squared
        crossed = -np.sum(through * (self.u - 1 / beta), 1) / exponent**2
        hessian[:, 3, 4] += crossed
        hessian[:, 4, 3] += crossed
        hessian[:, 3, 3] += np.sum(through * (2 * v - 3 / alpha), 1) / exponent**2
        hessian[:, 4, 4] += total / (exponent * other**2)
        for (j, k), value in {
            (4, 5): -np.sum(of_d * small.p, 1),
            (5, 4): -np.sum(of_d * small.p, 1),
            (5, 5): np.sum(-beta * of_d * small.pp, 1),
        }.items():
            hessian[:, j, k] += value
        return hessian

    def law(self, theta: np.ndarray) -> Repeat:
        e, log_a, log_b, alpha, beta, log_d, log_n = (float(value) for value in theta)
        e = 0.0 if e <= SMALLEST * 1.001 else e * math.exp(self.middle_y)
        log_a, log_b = log_a + self.middle_y + alpha * self.middle_n, log_b + self.middle_y + beta * self.middle_d
        return Repeat(e, math.exp(log_a), math.exp(log_b), alpha, beta, math.exp(log_d), math.exp(log_n))

    def theta(self, law: Repeat) -> np.ndarray:
        log_a, log_b = math.log(law.A) - law.alpha * self.middle_n, math.log(law.B) - law.beta * self.middle_d
        worth = _PUBLISHED[1] if math.isnan(law.R_N) else law.R_N
        decays = math.log(law.R_D), math.log(worth)
        e = law.E / math.exp(self.middle_y)
        return np.array([e, log_a - self.middle_y, log_b - self.middle_y, law.alpha, law.beta, *decays])

    def starts(self) -> np.ndarray:
        """Returns [K, 7]: a grid of the exponents and both worths, each with the E, A' and B' that are best for the
        effective tokens, no size being in excess.
        """
        grids = [_STEEPNESS if self.free[k] else self.lower[k : k + 1] for k in (3, 4)]
        alpha, beta = (axis.ravel() for axis in np.meshgrid(*grids))
        held = np.where(self.free, np.nan, self.lower)[:3]
        held[1:] = np.exp(held[1:])
        points = []
        for worth_d in sorted({worth_d for worth_d, _ in _WORTHS}):
            log_d = math.log(worth_d) if self.free[5] else self.lower[5]
            tokens = _excess(self.d, self.u, np.array(log_d)).m
            factors = project(alpha, beta, self.n, tokens, self.y, held)
            factors[:, 1:] = np.log(factors[:, 1:])
            for worth_n in sorted({worth_n for _, worth_n in _WORTHS}):
                rest = np.broadcast_to([log_d, math.log(worth_n)], (len(alpha), 2))
                points.append(np.concatenate([factors, alpha[:, None], beta[:, None], rest], 1))
        return np.concatenate(points)

    def shown(self, theta: np.ndarray) -> list[tuple[str, str]]:
        law = self.law(theta)
        levels = [("E", "0" if law.E == 0 else "as large as the loss")]
        levels += [
            (name, "0" if theta[k] < -10 else "as large as the loss")
            for k, name in ((1, "A/N'^alpha"), (2, "B/D'^beta"))
        ]
        return levels + [(name, f"{getattr(law, name):.3g}") for name in ("alpha", "beta", "R_D", "R_N")]

    def headlines(self, law: Repeat) -> Mapping[str, Headline]:
        return {"a": Headline(law.a, 0.01), "R_D": Headline(law.R_D, 0.1 * law.R_D)}


def _outer(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns the sum over R of weights [K, R] times rows [K, R, P] with themselves: [K, P, P]."""
    return (rows * weights[..., None]).transpose(0, 2, 1) @ rows


def fit(table: RunTable, how: How = How()) -> ParametricFit:
    """Fits all seven numbers at once, except those that `how` fixes, under its objective.

    Args:
      table: runs of eight cells or more, with `unique_tokens`; some of them read a token twice.
      how: the objective and the fixed parameters.

    Raises:
      UserError: the table has no unique tokens, no repeats, too few cells, or one ratio of tokens to size.
    """
    how.check("repeat", [field.name for field in dataclasses.fields(Repeat)])
    if table.unique_tokens is None:
        raise UserError("repeat: the table does not say how many tokens are unique; name its column (--unique-tokens)")
    if not np.any(table.tokens > table.unique_tokens):
        raise UserError("repeat: no run reads a token twice; --law chinchilla fits such a table")
    unique = np.minimum(table.tokens, table.unique_tokens)
    descent.require_cells(table, "repeat", 7 - len(how.fixed), unique)
    descent.require_ratios(table, "repeat", "repeats alone tell size from tokens, and badly")
    fitted = descent.fit(RepeatTerms.of(table, how))
    law = forget_unseen(table, fitted.law, how)
    assert isinstance(law, Repeat)
    warned = list(fitted.warnings)
    if math.isnan(law.R_N):
        line = "no run is larger than is best for its unique tokens: R_N* is unknown, and so is the loss of such a run"
        dropped = ("ill-conditioned", "unidentified")
        warned = [Warned("excess-params-unseen", line), *(each for each in warned if each.code not in dropped)]
    epochs = float(np.max(table.tokens / table.unique_tokens))
    if "R_D" not in how.fixed and epochs - 1 < law.R_D:
        line = f"no run reads its tokens more than {epochs:.3g} times: R_D*, {law.R_D:.3g}, rests on little"
        warned.append(Warned("decay-unseen", line))
    return dataclasses.replace(fitted, law=law, warnings=tuple(warned))


def forget_unseen(table: RunTable, law: Law, how: How) -> Law:
    """Returns the law with R_N* unknown (NaN) if it was fitted to runs none of which is too large for its tokens."""
    assert isinstance(law, Repeat)
    if "R_N" in how.fixed or law.excess(table).any():
        return law
    return dataclasses.replace(law, R_N=math.nan)
