"""Numbers as people write them, with decimal points or commas and thousands in groups; ambiguous ones are refused.

Points and commas have one meaning in a whole file, which its cells must show: `3,25` and `0,345` have a decimal comma,
`1,234.5` and `1,000,000` have groups; `1,234` alone could be either. A file that shows no decimal comma has decimal
points, as programs write them. Groups may also be separated by spaces, `_` or `'`.
"""

import math
import re
from collections.abc import Iterable, Sequence

_FOREIGN = re.compile(r"[+-]?[\d.,]*\d[\d.,]*(?:[eE][+-]?\d+)?")
"""Digits with points and commas in any order."""
_SPACES = str.maketrans("", "", " \u00a0\u2009\u202f'\u2019")
_SPACED = re.compile(r"[+-]?\d{1,3}(?:[ \u00a0\u2009\u202f'\u2019]\d{3})+(?:[.,]\d*)?")
_MINUS = str.maketrans("\u2212", "-")


class Unclear(ValueError):
    """A cell's text could be two numbers, or is none; the message says which."""


def decimal_mark(texts: Iterable[str]) -> str | None:
    """Returns the decimal mark, `.` or `,`, that the cells of a file show; None where they show none.

    Raises:
      Unclear: one cell shows one mark, another the other.
    """
    shown: dict[str, str] = {}
    for text in texts:
        mark = _shows(_plain(text))
        if mark is not None:
            shown.setdefault(mark, text)
    if len(shown) > 1:
        raise Unclear(f"{shown['.']!r} has a decimal point and {shown[',']!r} a decimal comma: write all in one way")
    return next(iter(shown), None)


def parse(text: str, mark: str | None) -> float:
    """Returns the number in a cell, under the file's decimal mark; NaN and infinities as `float` reads them.

    Raises:
      Unclear: the text is no number, or could be two.
    """
    plain = _plain(text)
    if "," not in plain and (mark != "," or "." not in plain):
        try:
            return float(plain)
        except ValueError:
            raise Unclear("which is no number") from None
    if not _FOREIGN.fullmatch(plain):
        raise Unclear("which is no number")
    if mark is None:  # commas that all look like groups of thousands, once
        raise Unclear(f"which is {plain.replace(',', '')} or {plain.replace(',', '.')}: write it without a comma")
    group = "," if mark == "." else "."
    body = re.split("[eE]", plain)[0]
    whole = body.split(mark)[0].lstrip("+-")
    if group == "." and body.count(".") == 1 and mark not in body:
        raise Unclear(f"which is {plain} or {plain.replace('.', '')}: other cells have decimal commas")
    if body.count(mark) > 1 or group in body.partition(mark)[2] or not _grouped(whole, group):
        raise Unclear(f"which is no number with a decimal {'point' if mark == '.' else 'comma'}")
    return float(plain.replace(group, "").replace(mark, "."))


def is_number(text: str) -> bool:
    """Whether a cell holds a finite number, under one decimal mark or the other."""
    plain = _plain(text)
    try:
        return math.isfinite(float(plain))
    except ValueError:
        return bool(_FOREIGN.fullmatch(plain))


def all_numbers(texts: Sequence[str]) -> bool:
    """Whether a column holds numbers: every cell that is filled in does, and some are."""
    cells = [text for text in texts if text and text.lower() not in ("nan", "inf", "-inf", "none", "null", "na", "n/a")]
    return bool(cells) and all(map(is_number, cells))


def _plain(text: str) -> str:
    """Returns a cell without the spaces or apostrophes between its groups of thousands, and with a plain minus."""
    text = text.strip().translate(_MINUS)
    return text.translate(_SPACES) if _SPACED.fullmatch(text) else text


def _shows(text: str) -> str | None:
    """Returns the decimal mark that a cell shows by itself, or None."""
    if not _FOREIGN.fullmatch(text):
        return None
    body = re.split("[eE]", text)[0].lstrip("+-")
    points, commas = body.count("."), body.count(",")
    if points and commas:
        return "." if body.rfind(".") > body.rfind(",") else ","
    for mark, other, count in ((",", ".", commas), (".", ",", points)):
        if count > 1:
            return other
        if count == 1 and not (_grouped(body, mark) and "e" not in text.lower()):
            return mark
    return None


def _grouped(whole: str, group: str) -> bool:
    """Whether digits are one group, or groups of three after a first of one to three that does not begin with 0."""
    first, *others = whole.split(group)
    return not others or (0 < len(first) <= 3 and first[0] != "0" and all(len(part) == 3 for part in others))
