"""Warned: a line that a reader must know before believing a number, with a code for programs."""

from typing import NamedTuple


class Warned(NamedTuple):
    """Something that a reader must know before believing a number."""

    code: str
    """A short name that programs can match, such as `minimum-at-edge`."""
    message: str
    """One line: what was seen, where, and what would mend it."""
