"""How: the user's choices for a fit beside the law: the objective, fixed parameters, the parabola's window."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

from transformer.errors import UserError
from transformer.scaling.laws import penalty
from transformer.scaling.laws.law import Law
from transformer.scaling.laws.penalty import Penalty

WINDOW = 4.0
"""Default window of a parabola: sizes within this factor of the lowest point (isoflop.py)."""
_Law = TypeVar("_Law", bound=Law)


@dataclasses.dataclass(frozen=True)
class How:
    """The choices for a fit; each law takes those that apply to it."""

    objective: Penalty = penalty.HUBER
    """The penalty to minimise; the laws of an allocation (isoflop, envelope) have their own objective."""
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Values of parameters that are not fitted, by name."""
    window: float = WINDOW
    """Factor to either side of the lowest point within which sizes count for an IsoFLOP parabola; infinite: all."""

    def __post_init__(self) -> None:
        if not self.window > 1:
            raise UserError(f"--isoflop-window {self.window:g}: it is a factor above 1, or inf for all sizes")

    def check(self, law: str, names: Iterable[str]) -> None:
        """Raises UserError for a fixed parameter that is none of a law's `names`, or where all are fixed."""
        names = list(names)
        for name in self.fixed:
            if name not in names:
                has = f"it has: {', '.join(names)}" if names else "it is fitted to optimal sizes, not to losses"
                raise UserError(f"{law} has no parameter {name!r} to fix; {has}")
        if names and len(self.fixed) == len(names):
            raise UserError(f"{law}: all of its parameters are fixed, and nothing is left to fit")

    def within(self, law: str, bounds: Mapping[str, tuple[float, float]]) -> None:
        """Raises UserError for a fixed value outside its bounds (inclusive)."""
        for name, value in self.fixed.items():
            low, high = bounds[name]
            if not low <= value <= high:
                raise UserError(f"{law}: {name} cannot be fixed at {value:g}: it is between {low:.4g} and {high:.4g}")

    def hold(self, law: _Law) -> _Law:
        """Returns a law whose fixed parameters have exactly the given values."""
        return dataclasses.replace(law, **self.fixed)


def parse_fixed(texts: Iterable[str]) -> dict[str, float]:
    """Returns the fixed parameters that a command line gives, such as E=0.6254 alpha=0.3527.

    Raises:
      UserError: a text is not NAME=NUMBER, or a name comes twice.
    """
    fixed: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (name and equals and math.isfinite(value)):
            raise UserError(f"--fix {text}: write NAME=NUMBER, such as alpha=0.35")
        if name in fixed:
            raise UserError(f"--fix {name} is given twice")
        fixed[name] = value
    return fixed
