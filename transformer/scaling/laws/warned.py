"""Warned: a warning about a number, one line for people and a code for programs."""

from typing import NamedTuple


class Warned(NamedTuple):
    """A warning that a reader should know before believing a number."""

    code: str
    """A short name that programs can match, such as `minimum-at-edge`."""
    message: str
    """One line: what was seen, where, and what to do about it."""
