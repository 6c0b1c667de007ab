"""Law: a fitted form, that tells the loss of a model and the best model for a budget; and what it warns of."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws.table import RunTable
from transformer.scaling.laws.warned import Warned as Warned

LEAST_FALL = 1e-3
"""The share of a loss by which it must fall over all that was varied: less is nothing that runs say."""


class Allocation(NamedTuple):
    """The best use of a budget."""

    params: float
    tokens: float


@dataclasses.dataclass(frozen=True)
class Law(abc.ABC):
    """A form with its numbers. A subclass's fields are the fitted parameters, floats all."""

    name: ClassVar[str]
    """What `--law` calls it."""
    fitted_to: ClassVar[str] = "run"
    """What a row of its table is."""
    reads: ClassVar[tuple[str, ...]] = ("params", "tokens")
    """The columns that its loss must fall with; none where it says no loss of a model."""

    def parameters(self) -> Mapping[str, float]:
        """Returns the fitted numbers by name, exponents of the allocation included (`a`: N* ~ C^a)."""
        return dataclasses.asdict(self)

    @abc.abstractmethod
    def loss(self, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        """Returns the predicted loss, in nats; NaN where the form does not say one."""

    @abc.abstractmethod
    def optimum(self, flops: float) -> Allocation:
        """Returns the size and tokens of the lowest loss for a budget of 6 N D FLOPs; NaN where the form says none."""

    def on_corpus(self, unique_tokens: float) -> "Law":
        """Returns the law of runs over a corpus of so many tokens: longer ones read it more than once.

        Raises:
          UserError: the form knows nothing of repeats.
        """
        raise UserError(f"the law {self.name!r} knows no repeated tokens: give --law repeat, or no --unique-tokens")

    def predict(self, table: RunTable) -> np.ndarray:
        """Returns the predicted loss of every row, from whatever columns the form reads; NaN as in `loss`."""
        return np.asarray(self.loss(table.params, table.tokens), np.float64)

    def best(self, flops: float) -> tuple[float, float, float]:
        """Returns the size, the tokens and the loss of `optimum`; all NaN where no float holds the first two."""
        try:
            with np.errstate(all="ignore"):
                params, tokens = self.optimum(flops)
                if not (0 < params < np.inf and 0 < tokens < np.inf):
                    return np.nan, np.nan, np.nan
                return float(params), float(tokens), self.optimal_loss(flops)
        except ArithmeticError:
            return np.nan, np.nan, np.nan

    def optimal_loss(self, flops: float) -> float:
        """Returns the lowest loss for a budget of 6 N D FLOPs, in nats; NaN where the form says none."""
        return float(self.loss(*self.optimum(flops)))


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law fitted to a table, with how well."""

    law: Law
    objective: float
    """What was minimised, at the minimum (its meaning is the law's)."""
    rows: int
    """Rows of the table that were used."""
    warnings: tuple[Warned, ...] = ()
    """In the order of their weight. A fit that says nothing raises UserError instead."""
    minimised: str = ""
    """What `objective` is, in words; empty where the law's own documentation says it."""
    fixed: tuple[str, ...] = ()
    """Parameters that were given and not fitted."""
