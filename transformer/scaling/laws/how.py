"""How: what a person chooses of a fit, beside the law: the objective, numbers held fixed, the parabola's window."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

from transformer.errors import UserError
from transformer.scaling.laws import penalty
from transformer.scaling.laws.law import Law
from transformer.scaling.laws.penalty import Penalty

WINDOW = 4.0
"""A parabola's window where nobody says another: sizes within this factor of the lowest point (isoflop.py)."""
_Law = TypeVar("_Law", bound=Law)


@dataclasses.dataclass(frozen=True)
class How:
    """The choices of a fit; each law takes what concerns it."""

    objective: Penalty = penalty.HUBER
    """What is minimised; the laws of an allocation (isoflop, envelope) have their own."""
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Parameters of the law that are known, by name, and not fitted."""
    window: float = WINDOW
    """Factor to either side of the lowest point within which an IsoFLOP parabola sees sizes; infinite: all sizes."""

    def __post_init__(self) -> None:
        if not self.window > 1:
            raise UserError(f"--isoflop-window {self.window:g}: it is a factor above 1, or inf for all sizes")

    def check(self, law: str, names: Iterable[str]) -> None:
        """Refuses fixed parameters that a law of these names lacks.

        Raises:
          UserError: it lacks one, or all are fixed, so that nothing is left to fit.
        """
        names = list(names)
        for name in self.fixed:
            if name not in names:
                has = f"it has: {', '.join(names)}" if names else "it is fitted to optimal sizes, not to losses"
                raise UserError(f"{law} has no parameter {name!r} to fix; {has}")
        if names and len(self.fixed) == len(names):
            raise UserError(f"{law}: all of its parameters are fixed, and nothing is left to fit")

    def within(self, law: str, bounds: Mapping[str, tuple[float, float]]) -> None:
        """Refuses a fixed value outside its bounds, which both are allowed.

        Raises:
          UserError: one is outside.
        """
        for name, value in self.fixed.items():
            low, high = bounds[name]
            if not low <= value <= high:
                raise UserError(f"{law}: {name} cannot be fixed at {value:g}: it is between {low:.4g} and {high:.4g}")

    def hold(self, law: _Law) -> _Law:
        """Returns a law whose fixed parameters have exactly the digits that were given."""
        return dataclasses.replace(law, **self.fixed)


def parse_fixed(texts: Iterable[str]) -> dict[str, float]:
    """Returns the fixed parameters of a command line, such as E=0.6254 alpha=0.3527.

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
