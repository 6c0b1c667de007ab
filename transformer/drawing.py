"""Pictures that the tools draw: a figure that can be saved, told before anything is computed, and its colours."""

import io
from pathlib import Path
from typing import Any

from transformer.errors import UserError
from transformer.paths import check_file, write_file

BLUES = ("#c6dbef", "#9ecae1", "#6baed6", "#3182bd", "#08519c")
"""Colours from what is narrow or early to what is wide or late: one hue, told apart by lightness (ColorBrewer)."""


def new_figure(width: float, height: float, path: str, flag: str = "--out") -> Any:
    """Returns an empty matplotlib Figure, in inches; raises UserError where it could not be saved as `path`, the value
    of `flag`.

    Called before anything is computed that would be lost without it.
    """
    check_file(path, flag)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("drawing needs matplotlib: pip install -e '.[plot]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    ending, known = Path(path).suffix[1:].lower(), figure.canvas.get_supported_filetypes()
    if ending and ending not in known:
        raise UserError(f"{flag} {path}: .{ending} is not supported: give {', '.join(f'.{name}' for name in known)}")
    return figure


def blue(index: int, number: int) -> str:
    """Returns the colour of one of a number of lines: light for the first (0), dark for the last."""
    return BLUES[round(index * (len(BLUES) - 1) / max(number - 1, 1))]


def save_figure(figure: Any, path: str) -> None:
    """Writes a picture, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(path).suffix[1:].lower() or None, dpi=120)
    write_file(path, picture.getvalue())
