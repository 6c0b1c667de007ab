"""Repeated data: what a token is worth the second time, and a parameter that there is too little data for.

Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", sections 3.1 and 6, equations 5 and 6: the loss is
Chinchilla's in effective tokens D' and effective parameters N', each of which decays exponentially in what exceeds the
unique. The paper ties alpha to beta, and fits the five numbers of Chinchilla's form to runs of one epoch first; here
all seven are free and fitted at once, since the form takes parameters for excess in runs of one epoch too.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import numpy as np
from scipy.optimize import fminbound, nnls

from transformer.errors import UserError
from transformer.scaling.laws import huber
from transformer.scaling.laws.law import Allocation, Fit, Law, Warned
from transformer.scaling.laws.table import Table

Array = np.ndarray | float


class _Effective(NamedTuple):
    """log N' and log D', and their derivatives by log U_N, log R_N* and log R_D*."""

    log_params: np.ndarray
    log_tokens: np.ndarray
    by_unique_params: np.ndarray
    by_excess: np.ndarray
    by_repeats: np.ndarray


@dataclasses.dataclass(frozen=True)
class Repeat(Law):
    """L = E + A / N'^alpha + B / D'^beta, where x' = u + u R* (1 - exp(-(x / u - 1) / R*)) of x with u unique.

    U_D is the corpus; U_N is what is best, without repeats, for a run over the corpus once.
    """

    name: ClassVar[str] = "repeat"

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    R_D: float
    """R_D*: epochs, after the first, in which repeated tokens lose 1 - 1/e of their worth."""
    R_N: float
    """R_N*: the same of parameters beyond U_N, in multiples of it. NaN where no run had any: so is their loss."""

    def loss(self, params: Array, tokens: Array, unique_tokens: Array | None = None) -> np.ndarray:
        """Returns the predicted loss, in nats; of tokens that are all unique, unless said."""
        unique = tokens if unique_tokens is None else unique_tokens
        log_n, log_d, log_u = np.log(np.stack(np.broadcast_arrays(params, tokens, unique)).astype(np.float64))
        effective = _effective(log_n, log_d, log_u, self.A, self.B, self.alpha, self.beta, self.R_D, self.R_N)
        large = np.exp(math.log(self.A) - self.alpha * effective.log_params)
        return self.E + large + np.exp(math.log(self.B) - self.beta * effective.log_tokens)

    def predict(self, table: Table) -> np.ndarray:
        return self.loss(table.params, table.tokens, table.unique_tokens)

    def optimum(self, flops: float, unique_tokens: float | None = None) -> Allocation:
        """Returns the size and tokens of the lowest loss for a budget of 6 N D FLOPs.

        On a corpus that it would repeat, it is searched for; else it is Chinchilla's closed form (equation 4).
        """
        a = self.beta / (self.alpha + self.beta)
        balance = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        plain = balance * (flops / 6) ** a
        if unique_tokens is None or flops / (6 * plain) <= unique_tokens:
            return Allocation(plain, flops / (6 * plain))
        if math.isnan(self.R_N):
            return Allocation(math.nan, math.nan)

        def loss(log_params: float) -> float:
            params = math.exp(log_params)
            return float(self.loss(params, flops / (6 * params), unique_tokens))

        # Between the best size for the corpus read once and the size that this budget trains on it once.
        once = self.unique_params(unique_tokens)
        best = float(np.exp(fminbound(loss, math.log(once), math.log(flops / (6 * unique_tokens)), xtol=1e-10)))
        return Allocation(best, flops / (6 * best))

    def on_corpus(self, unique_tokens: float) -> "Repeat":
        return _OnCorpus(**dataclasses.asdict(self), corpus=unique_tokens)

    def unique_params(self, unique_tokens: float) -> float:
        """Returns U_N: the size that is best for a run over a corpus once."""
        return float(np.exp(_log_unique_params(np.log(unique_tokens), self.A, self.B, self.alpha, self.beta)))


@dataclasses.dataclass(frozen=True)
class _OnCorpus(Repeat):
    """The law of runs that all read one corpus."""

    corpus: float
    """Its tokens."""

    def loss(self, params: Array, tokens: Array, unique_tokens: Array | None = None) -> np.ndarray:
        return super().loss(params, tokens, self.corpus if unique_tokens is None else unique_tokens)

    def optimum(self, flops: float, unique_tokens: float | None = None) -> Allocation:
        return super().optimum(flops, self.corpus if unique_tokens is None else unique_tokens)


def _log_unique_params(log_unique: np.ndarray, a: float, b: float, alpha: float, beta: float) -> np.ndarray:
    """Returns log U_N: the size at which a Chinchilla-optimal run reads the corpus once."""
    balance = math.log(alpha * a / (beta * b)) / (alpha + beta)
    return balance + beta / alpha * (balance + log_unique)


def _decayed(log_x: np.ndarray, log_unique: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns log x', and its derivatives by log u and log R*; x' is x where there is nothing in excess."""
    excess = np.exp(log_x - log_unique) - 1
    some = excess > 0
    excess = np.where(some, excess, 1.0)
    left = np.exp(-excess / scale)
    ratio = 1 - scale * np.expm1(-excess / scale)
    by_unique = 1 - (excess + 1) * left / ratio
    by_scale = scale * (1 - left - excess / scale * left) / ratio
    return (
        np.where(some, log_unique + np.log(ratio), log_x),
        np.where(some, by_unique, 0.0),
        np.where(some, by_scale, 0.0),
    )


def _effective(
    log_params: np.ndarray,
    log_tokens: np.ndarray,
    log_corpus: np.ndarray,
    a: float,
    b: float,
    alpha: float,
    beta: float,
    r_d: float,
    r_n: float,
) -> _Effective:
    """Returns log N' and log D' with derivatives: equations 5 and 6."""
    log_unique = np.minimum(log_tokens, log_corpus)
    tokens, _, by_repeats = _decayed(log_tokens, log_unique, r_d)
    params, by_unique, by_excess = _decayed(log_params, _log_unique_params(log_unique, a, b, alpha, beta), r_n)
    return _Effective(params, tokens, by_unique, by_excess, by_repeats)


_PUBLISHED = 15.387756, 5.309743
"""R_D* and R_N* of the paper: where a descent starts."""


def fit(table: Table, start: Law | None = None) -> Fit:
    """Fits all seven numbers at once; the objective is huber.py's.

    Args:
      table: runs of eight cells or more, with `unique_tokens`; some of them read a token twice.
      start: a Repeat to descend from, such as the whole table's for a bootstrap's; by default the best of a grid, in
        the tokens that the published R_D* makes of the table's.

    Raises:
      UserError: the table has no unique tokens, no repeats, too few cells, or one ratio of tokens to size.
    """
    if table.unique_tokens is None:
        raise UserError("repeat: the table does not say how many tokens are unique; name its column (--unique-tokens)")
    repeated = table.tokens > table.unique_tokens
    if not repeated.any():
        raise UserError("repeat: no run reads a token twice; --law chinchilla fits such a table")
    log_n, log_d, log_loss = np.log(table.params), np.log(table.tokens), np.log(table.loss)
    unique = np.minimum(table.tokens, table.unique_tokens)
    huber.require_cells(table, "repeat", 7, unique)
    log_u = np.log(unique)
    if np.ptp(log_d - log_n) < 1e-3:
        raise UserError(
            f"repeat: every run reads {np.exp(log_d[0] - log_n[0]):.3g} tokens per parameter, so that repeats alone "
            "tell size from tokens, and badly; add runs that read more or fewer"
        )
    # At their middles the terms are of the size of the loss, whatever the units: so they are well scaled.
    middle_n, middle_d = log_n.mean(), log_d.mean()

    def residuals(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_e, level_n, level_d, alpha, beta, log_r_d, log_r_n = at
        log_a, log_b = level_n + alpha * middle_n, level_d + beta * middle_d
        balance = (math.log(alpha / beta) + log_a - log_b) / (alpha + beta)
        effective = _effective(
            log_n, log_d, log_u, math.exp(log_a), math.exp(log_b), alpha, beta, math.exp(log_r_d), math.exp(log_r_n)
        )
        floor = np.full_like(log_n, np.exp(log_e))
        large = np.exp(log_a - alpha * effective.log_params)
        small = np.exp(log_b - beta * effective.log_tokens)
        total = floor + large + small
        # Through U_N = balance + beta / alpha (balance + log U_D), N' depends on all of Chinchilla's numbers.
        through = -alpha * large * effective.by_unique_params
        by_balance = through * (1 + beta / alpha) / (alpha + beta)
        by_ratio = through * (balance + log_u)
        slopes = [
            floor,
            large + by_balance,
            small - by_balance,
            large * (middle_n - effective.log_params)
            + by_balance * (1 / alpha + middle_n - balance)
            - by_ratio * beta / alpha**2,
            small * (middle_d - effective.log_tokens)
            + by_balance * (-1 / beta - middle_d - balance)
            + by_ratio / alpha,
            -beta * small * effective.by_repeats,
            -alpha * large * effective.by_excess,
        ]
        return np.log(total) - log_loss, np.stack(slopes, axis=1) / total[:, None]

    if isinstance(start, Repeat):
        level_n, level_d = math.log(start.A) - start.alpha * middle_n, math.log(start.B) - start.beta * middle_d
        decay = start.R_D, _PUBLISHED[1] if math.isnan(start.R_N) else start.R_N
        first = np.array([math.log(start.E), level_n, level_d, start.alpha, start.beta, *np.log(decay)])
    else:
        first = _start(log_n - middle_n, _decayed(log_d, log_u, _PUBLISHED[0])[0] - middle_d, table.loss)
    lower = np.array([-20.0, -20.0, -20.0, 1e-3, 1e-3, math.log(1e-2), math.log(1e-2)])
    upper = np.array([5.0, 5.0, 5.0, 4.0, 4.0, math.log(1e4), math.log(1e4)])
    found = huber.minimise(residuals, first, lower, upper)
    log_e, level_n, level_d, alpha, beta, log_r_d, log_r_n = (float(value) for value in found.at)
    scale_a, scale_b = math.exp(level_n + alpha * middle_n), math.exp(level_d + beta * middle_d)
    law = Repeat(math.exp(log_e), scale_a, scale_b, alpha, beta, math.exp(log_r_d), math.exp(log_r_n))
    warned = found.judge(["E", "A", "B", "alpha", "beta", "R_D", "R_N"])
    if not np.any(log_n > _log_unique_params(log_u, scale_a, scale_b, alpha, beta)):
        law = dataclasses.replace(law, R_N=math.nan)
        line = "no run is larger than is best for its unique tokens: R_N* is unknown, and so is the loss of such a run"
        warned = [Warned("excess-params-unseen", line), *(each for each in warned if each.code != "ill-conditioned")]
    epochs = float(np.max(table.tokens / table.unique_tokens))
    if epochs - 1 < law.R_D:
        line = f"no run reads its tokens more than {epochs:.3g} times: R_D*, {law.R_D:.3g}, rests on little"
        warned.append(Warned("decay-unseen", line))
    return Fit(law, found.objective, len(table), tuple(warned))


def _start(log_params: np.ndarray, log_tokens: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Returns the best of a grid of Chinchilla's exponents: for each, the other three are linear and not negative."""

    def project(alpha: float, beta: float) -> tuple[float, np.ndarray]:
        terms = [np.ones_like(loss), np.exp(-alpha * log_params), np.exp(-beta * log_tokens)]
        factors, misfit = nnls(np.stack(terms, axis=1) / loss[:, None], np.ones_like(loss))
        return misfit, np.array([*np.log(np.maximum(factors, 1e-6)), alpha, beta, *np.log(_PUBLISHED)])

    grid = np.geomspace(0.05, 1.2, 10)
    return min((project(alpha, beta) for alpha in grid for beta in grid), key=lambda found: found[0])[1]
