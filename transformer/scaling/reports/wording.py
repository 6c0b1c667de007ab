"""Numbers as people read them on a page and on an axis."""

import math

from transformer.scaling.laws.bootstrap import Interval


def short(value: float) -> str:
    """Returns 84210 as 84.2k."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def scientific(value: float) -> str:
    """Returns 3e+11 as 3e11, with three digits at most."""
    if value == 0:
        return "0"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def number(value: float, form: str) -> str:
    """Returns a number as text, empty for NaN."""
    return "" if math.isnan(value) else f"{value:{form}}"


def interval(pair: Interval | None, form: str | None = None) -> str:
    """Returns [low, high] as text, by default as `short` writes numbers; empty where there is no interval."""
    if pair is None or math.isnan(pair[0]):
        return ""
    low, high = (short(end) if form is None else f"{end:{form}}" for end in pair)
    return f"[{low}, {high}]"
