"""Law: a fitted form, which gives the loss of a model and the best model for a budget."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws.table import RunTable
from transformer.scaling.laws.warned import Warned as Warned

LEAST_FALL = 1e-3
"""Least relative fall of the loss over the range of a variable with which a law of it can be fitted."""


class Allocation(NamedTuple):
    """The best use of a budget."""

    params: float
    tokens: float


@dataclasses.dataclass(frozen=True)
class Law(abc.ABC):
    """A form with its numbers. A subclass's fields are the fitted parameters, all floats."""

    name: ClassVar[str]
    """Name that `--law` takes."""
    fitted_to: ClassVar[str] = "run"
    """Noun for a row of its table."""
    reads: ClassVar[tuple[str, ...]] = ("params", "tokens")
    """Columns that the loss must fall with; none where the law predicts no loss of a model."""

    def parameters(self) -> Mapping[str, float]:
        """Returns the fitted numbers by name, exponents of the allocation included (`a`: N* ~ C^a)."""
        return dataclasses.asdict(self)

    @abc.abstractmethod
    def loss(self, params: np.ndarray | float, tokens: np.ndarray | float) -> np.ndarray:
        """Returns the predicted loss, in nats; NaN where the form predicts none."""

    @abc.abstractmethod
    def optimum(self, flops: float) -> Allocation:
        """Returns the size and tokens of the lowest loss for a budget of 6 N D FLOPs; NaN where the form has none."""

    def on_corpus(self, unique_tokens: float) -> "Law":
        """Returns the law for runs over a corpus of so many tokens, which longer runs read more than once.

        Raises:
          UserError: the form knows nothing of repeats.
        """
        raise UserError(f"the law {self.name!r} knows no repeated tokens: give --law repeat, or no --unique-tokens")

    def predict(self, table: RunTable) -> np.ndarray:
        """Returns the predicted loss of every row, from the columns that the form reads; NaN as in `loss`."""
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
        """Returns the lowest loss for a budget of 6 N D FLOPs, in nats; NaN where the form has none."""
        return float(self.loss(*self.optimum(flops)))


@dataclasses.dataclass(frozen=True)
class Fit:
    """A law fitted to a table, with its objective and warnings."""

    law: Law
    objective: float
    """Value of the law's objective at the minimum."""
    rows: int
    """Number of the table's rows that were used."""
    warnings: tuple[Warned, ...] = ()
    """The gravest first. A fit that says nothing raises UserError instead."""
    minimised: str = ""
    """The objective in words; empty where the law's own documentation says it."""
    fixed: tuple[str, ...] = ()
    """Names of the parameters that were given and not fitted."""
