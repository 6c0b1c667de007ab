"""Rules that a config's fields must keep. What breaks one is named by its field; the command line makes that a flag."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from transformer.errors import UserError

_FIELD = re.compile(r"`([a-z_][\w.]*)`")


class FieldError(UserError):
    """A config's field that breaks a rule.

    Args:
      config: the class whose field it is.
      message: names fields in backticks: those of the config (`steps`), or of a whole experiment (`train.steps`).
    """

    def __init__(self, config: type, message: str):
        super().__init__(config, message)  # all of it, so that it can be sent from process to process
        self.config, self._message = config, message

    def __str__(self) -> str:
        return self.worded(lambda name: name)

    @property
    def fields(self) -> list[str]:
        """Names of the fields that the message is about."""
        return _FIELD.findall(self._message)

    def worded(self, flag: Callable[[str], str]) -> str:
        """Returns the message with each field as `flag` calls it."""
        return _FIELD.sub(lambda match: flag(match[1]), self._message)


def reasons(error: Any) -> str:
    """Returns what is wrong with a record, field by field, from what cattrs raised."""
    import cattrs
    from cattrs.v import format_exception

    def reason(problem: BaseException, kind: type | None) -> str:
        return str(problem) if isinstance(problem, UserError | ValueError) else format_exception(problem, kind)

    return "; ".join(cattrs.transform_error(error, format_exception=reason))


def require(config: Any, holds: bool, message: str) -> None:
    """Raises `FieldError` with the message, in which fields stand in backticks, unless the rule holds."""
    if not holds:
        raise FieldError(type(config), message)


def rule(config: Any, field: str, holds: bool, words: str) -> None:
    """Raises `FieldError` with a field, its value and the rule in words, unless the rule holds."""
    require(config, holds, f"`{field}` is {getattr(config, field)}: {words}")


def at_least(config: Any, least: float, *fields: str) -> None:
    """Raises `FieldError` for a field below `least`; None passes, here and below."""
    for field in fields:
        value = getattr(config, field)
        rule(config, field, value is None or value >= least, f"it must be at least {least}")


def above(config: Any, bound: float, *fields: str) -> None:
    """Raises `FieldError` for a field that is not above `bound`."""
    for field in fields:
        value = getattr(config, field)
        rule(config, field, value is None or value > bound, f"it must be above {bound}")


def within(config: Any, interval: str, *fields: str) -> None:
    """Raises `FieldError` for a field outside of an interval as mathematics writes it, such as `[0, 1)`."""
    low, high = map(float, interval[1:-1].split(","))
    for field in fields:
        value = getattr(config, field)
        inside = value is None or low < value < high
        inside = inside or (interval[0] == "[" and value == low) or (interval[-1] == "]" and value == high)
        rule(config, field, inside, f"it must lie in {interval}")


def choice(config: Any, field: str, choices: Iterable[str]) -> None:
    """Raises `FieldError` for a field that is none of the choices."""
    value, choices = getattr(config, field), list(choices)
    require(config, value in choices, f"unknown `{field}` {value!r}; choose from: {', '.join(choices)}")


def divides(config: Any, divisor: str, dividend: str) -> None:
    """Raises `FieldError` where one field does not divide another."""
    small, large = getattr(config, divisor), getattr(config, dividend)
    require(config, large % small == 0, f"`{divisor}` {small} does not divide `{dividend}` {large}")
