"""The law of repeated data: the worth of tokens read again, and of parameters that have too little data.

Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", sections 3.1 and 6, equations 5 and 6: the loss is
Chinchilla's in effective tokens D' and effective parameters N', each of which decays exponentially in the excess over
the unique. The paper ties alpha to beta, and fits the five numbers of Chinchilla's form to runs of one epoch first.
Here all seven are free and fitted at once, since parameters may be in excess in runs of one epoch too.
"""

import dataclasses
import math
from typing import ClassVar

import numpy as np
from scipy.optimize import fminbound

from transformer.scaling.laws.law import Allocation, Law
from transformer.scaling.laws.table import RunTable

Array = np.ndarray | float


@dataclasses.dataclass(frozen=True)
class Repeat(Law):
    """L = E + A / N'^alpha + B / D'^beta, where x' = u + u R* (1 - exp(-(x / u - 1) / R*)) of x with u unique.

    U_D is the corpus; U_N is the size that is best for a run over the corpus once.
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
    """R_N*: the same for parameters beyond U_N, in multiples of it. NaN where no run had any; so is their loss then."""

    def loss(self, params: Array, tokens: Array, unique_tokens: Array | None = None) -> np.ndarray:
        """Returns the predicted loss, in nats; all tokens are unique unless `unique_tokens` says otherwise."""
        unique = tokens if unique_tokens is None else unique_tokens
        log_n, log_d, log_u = np.log(np.stack(np.broadcast_arrays(params, tokens, unique)).astype(np.float64))
        log_u = np.minimum(log_u, log_d)
        effective_d = decayed(log_d, log_u, self.R_D)
        effective_n = decayed(log_n, self._log_unique_params(log_u), self.R_N)
        large = np.exp(math.log(self.A) - self.alpha * effective_n)
        return self.E + large + np.exp(math.log(self.B) - self.beta * effective_d)

    def predict(self, table: RunTable) -> np.ndarray:
        return self.loss(table.params, table.tokens, table.unique_tokens)

    def optimum(self, flops: float, unique_tokens: float | None = None) -> Allocation:
        """Returns the size and tokens of the lowest loss for a budget of 6 N D FLOPs.

        It is Chinchilla's closed form (equation 4), or searched for where the corpus would be repeated.
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
        return float(np.exp(self._log_unique_params(np.log(unique_tokens))))

    def excess(self, table: RunTable) -> np.ndarray:
        """Returns [R] bool: whether a run is larger than is best for its unique tokens."""
        unique = table.tokens if table.unique_tokens is None else np.minimum(table.tokens, table.unique_tokens)
        return np.log(table.params) > self._log_unique_params(np.log(unique))

    @property
    def a(self) -> float:
        """Exponent of N* ~ C^a, for budgets that repeat nothing."""
        return self.beta / (self.alpha + self.beta)

    def _log_unique_params(self, log_unique: np.ndarray) -> np.ndarray:
        """Returns log U_N: the size at which a Chinchilla-optimal run reads the corpus once."""
        balance = math.log(self.alpha / self.beta) + math.log(self.A) - math.log(self.B)
        return (balance + self.beta * log_unique) / self.alpha


@dataclasses.dataclass(frozen=True)
class _OnCorpus(Repeat):
    """The law for runs that all read one corpus."""

    corpus: float
    """Number of its tokens."""

    def loss(self, params: Array, tokens: Array, unique_tokens: Array | None = None) -> np.ndarray:
        return super().loss(params, tokens, self.corpus if unique_tokens is None else unique_tokens)

    def optimum(self, flops: float, unique_tokens: float | None = None) -> Allocation:
        return super().optimum(flops, self.corpus if unique_tokens is None else unique_tokens)


def decayed(log_x: np.ndarray, log_unique: np.ndarray, scale: float) -> np.ndarray:
    """Returns log x' (equations 5 and 6), which is log x where nothing exceeds the unique."""
    beyond = np.expm1(np.clip(log_x - log_unique, 0, _FAR))
    return np.where(log_x > log_unique, log_unique + np.log1p(-scale * np.expm1(-beyond / scale)), log_x)


_FAR = 60.0
"""Log of an excess beyond which nothing changes, and an exponential would overflow."""
