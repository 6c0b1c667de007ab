"""Counts in words."""


def count(number: int, noun: str) -> str:
    """Returns `1 run`, `2 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
