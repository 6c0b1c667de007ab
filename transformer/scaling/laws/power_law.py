"""Power laws of the best learning rate, or batch, in the budget or in size and tokens: y = k x1^e1 x2^e2 ...

Each cell of a study is trained at several settings; the best one is at the bottom of a parabola in the setting's log,
and the best settings over the cells follow a straight line in logs. Bi et al. 2024 ("DeepSeek LLM", equation 1) have
this form in C, and Li et al. 2025 ("Predictable Scale: Part I", equation 1) in N and D.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws import parabola
from transformer.scaling.laws.law import Warned
from transformer.scaling.laws.parabola import Parabola

_NEIGHBOURS = 2
"""Settings to each side of the best that the parabola is fitted to: a rate that nearly diverges is on no parabola."""


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """y = coefficient * the product of x^exponent over the named variables x."""

    coefficient: float
    exponents: Mapping[str, float]

    def __call__(self, **at: float) -> float:
        """Returns y at the given variables."""
        if set(at) != set(self.exponents):
            raise UserError(f"a power law in {', '.join(self.exponents)}; given {', '.join(at) or 'nothing'}")
        return self.coefficient * math.prod(at[name] ** exponent for name, exponent in self.exponents.items())


DEEPSEEK_LEARNING_RATE = PowerLaw(0.3118, {"C": -0.1250})
"""Adam's, where C = M D in FLOPs and M are the FLOPs a token, without embeddings and with attention."""
STEP_LEARNING_RATE = PowerLaw(1.79, {"N": -0.713, "D": 0.307})
"""AdamW's peak; N without embeddings."""


class Sweep(NamedTuple):
    """One cell of a study, trained at several settings."""

    at: Mapping[str, float]
    """The cell: the value of each variable by its name."""
    valley: Parabola
    """Parabola of the loss over the setting, near its best."""


class PowerFit(NamedTuple):
    """A power law fitted to sweeps, with its errors and warnings."""

    law: PowerLaw
    errors: Mapping[str, float]
    """Standard error of each exponent, by least squares; NaN without a degree of freedom."""
    error: float
    """Root mean square of log y about the law; NaN likewise."""
    sweeps: tuple[Sweep, ...]
    """Every sweep, those left out too."""
    warnings: tuple[Warned, ...]


def fit(setting: np.ndarray, loss: np.ndarray, at: Mapping[str, np.ndarray], what: str = "learning rates") -> PowerFit:
    """Fits a power law to the best setting of every cell; a sweep that does not bracket its best one is left out.

    Args:
      setting: [R], what was swept, such as the learning rate.
      loss: [R], nats; not finite where the run diverged.
      at: [R] each, by name: the variables of the law. Rows where all are equal are one sweep.
      what: the plural of the setting's name, for messages.

    Raises:
      UserError: too few sweeps bracket their best setting for this many exponents, or the cells cannot tell them apart.
    """
    finite = np.isfinite(loss)
    sweeps, warned = [], []
    if not finite.all():
        line = f"{np.sum(~finite)} of {len(loss)} runs have no finite loss; they were left out of their sweeps"
        warned.append(Warned("diverged-run", line))
    setting, loss, at_rx = setting[finite], loss[finite], np.stack(list(at.values()), axis=1)[finite]
    for cell in np.unique(at_rx, axis=0):
        named = dict(zip(at, map(float, cell), strict=True))
        where = "the sweep at " + ", ".join(f"{name} {value:.3g}" for name, value in named.items())
        rows = np.flatnonzero(np.all(at_rx == cell, axis=1))
        rows = rows[_near_best(setting[rows], loss[rows])]
        if len(np.unique(setting[rows])) < 3:
            warned.append(Warned("rows-left-out", f"{where}: fewer than three {what}; it was left out"))
            continue
        sweep = Sweep(named, parabola.fit(setting[rows], loss[rows]))
        warned += sweep.valley.warnings(where, what)
        sweeps.append(sweep)
    good = [sweep for sweep in sweeps if sweep.valley.inside]
    needed = len(at) + 1
    if len(good) < needed:
        raise UserError(
            f"a power law in {', '.join(at)} needs {needed} sweeps that bracket their best of {what}; {len(good)} here"
            + (f"; {warned[0].message}" if warned else "")
        )
    design = np.array([[1.0, *np.log(list(sweep.at.values()))] for sweep in good])
    centred = design[:, 1:] - design[:, 1:].mean(axis=0)
    if np.linalg.matrix_rank(centred, tol=1e-3 * math.sqrt(len(good))) < len(at):
        raise UserError(
            f"the sweeps do not vary {' and '.join(at)} apart from each other: their exponents cannot be told; "
            "add sweeps that do, or fit fewer of them"
        )
    best = np.log([sweep.valley.lowest for sweep in good])
    exponents, *_ = np.linalg.lstsq(centred, best, rcond=None)
    level = best.mean() - design[:, 1:].mean(axis=0) @ exponents
    error, errors = math.nan, np.full(len(at), math.nan)
    if len(good) > needed:
        squares = np.sum((design @ (level, *exponents) - best) ** 2)
        error = math.sqrt(squares / len(good))
        errors = np.sqrt(squares / (len(good) - needed) * np.diag(np.linalg.inv(centred.T @ centred)))
    else:
        line = f"{needed} sweeps: the power law goes through them exactly, and nothing tells how well; add a sweep"
        warned.append(Warned("no-freedom", line))
    law = PowerLaw(float(np.exp(level)), dict(zip(at, map(float, exponents), strict=True)))
    return PowerFit(law, dict(zip(at, map(float, errors), strict=True)), error, tuple(sweeps), tuple(warned))


def _near_best(setting: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Returns a mask of the rows whose setting is the best one, by its mean over repeats, or near it."""
    _, place = np.unique(setting, return_inverse=True)
    best = int(np.argmin(np.bincount(place, loss) / np.bincount(place)))
    return np.abs(place - best) <= _NEIGHBOURS
