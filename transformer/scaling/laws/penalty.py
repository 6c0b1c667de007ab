"""Penalties: every form of the loss is fitted by minimising the sum over runs of a penalty of log L_hat - log L.

`HUBER` is the loss of Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", section 3.3 (equation 3):
delta 1e-3, so that a failed run pulls by its sign and not by its size. `SQUARES` is least squares, which many published
fits use. All forms share it, so that their minima can be compared.
"""

import dataclasses

import numpy as np

from transformer.errors import UserError, choice_hint

DELTA = 1e-3
"""Error of log loss at which Huber's loss turns from a square to a line."""


@dataclasses.dataclass(frozen=True)
class Penalty:
    """A convex penalty of an error of log loss: `unit` (error^2 / 2 below delta, delta (|error| - delta / 2) above)."""

    name: str
    """What `--objective` calls it."""
    words: str
    """What it is, for people."""
    delta: float
    unit: float

    def value(self, error: np.ndarray) -> np.ndarray:
        size = np.abs(error)
        inner = np.minimum(size, self.delta)
        return self.unit * inner * (size - inner / 2)

    def pull(self, error: np.ndarray) -> np.ndarray:
        """Returns the derivative."""
        return self.unit * np.clip(error, -self.delta, self.delta)

    def bend(self, error: np.ndarray) -> np.ndarray:
        """Returns the second derivative; where it jumps, one of its elements."""
        return self.unit * (np.abs(error) < self.delta)

    def touching(self, error: np.ndarray) -> np.ndarray:
        """Returns the bend of the parabola that touches the penalty from above: iterated weights."""
        size = np.abs(error)
        return self.unit * np.minimum(size, self.delta) / np.maximum(size, np.finfo(np.float64).tiny)


HUBER = Penalty("huber", "summed Huber of log loss, delta 1e-3", DELTA, 1.0)
SQUARES = Penalty("squares", "sum of squared errors of log loss", np.inf, 2.0)


def named(name: str) -> Penalty:
    """Returns the penalty that `--objective` names; raises UserError for an unknown name, with the nearest."""
    choices = {each.name: each for each in (HUBER, SQUARES)}
    if name not in choices:
        raise UserError(f"--objective {name}: no such objective; {choice_hint(name, choices)}")
    return choices[name]
