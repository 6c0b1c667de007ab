"""A sweep for people: its table, and its picture, a validation loss over a varied field."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from transformer.sweeps.rows import Row

SEED = "train.seed"
"""The field over which the picture takes medians: its values are repetitions, not settings."""
_LINES = ("-", "--", ":")
"""Styles of lines, each for as many as there are colours."""
_TICKS = 10
"""Values of the horizontal axis that are all written below it."""
_STYLES = {"waits": "dim", "begun": "", "ended": "", "failed": "red"}


def table(rows: Sequence[Row], fields: Sequence[str]) -> Table:
    """Returns a table of the runs, the lowest validation loss in bold."""
    shown = Table()
    for field in fields:
        shown.add_column(field)
    shown.add_column("state")
    for figure in ("eval loss", "train loss", "steps", "tokens", "FLOPs", "seconds"):
        shown.add_column(figure, justify="right")
    lowest = best(rows)
    for row in rows:
        shown.add_row(
            *(_words(row.values[field]) for field in fields),
            "diverged" if row.diverged else row.state,
            *(_number(value, style) for value, style in ((row.eval_loss, ".4f"), (row.train_loss, ".4f"))),
            *(f"{row.steps:,}", f"{row.tokens:,}", f"{row.flops:.3g}", _number(row.seconds, ".1f")),
            style="bold" if row is lowest else "red" if row.diverged else _STYLES[row.state],
        )
    return shown


def best(rows: Sequence[Row]) -> Row | None:
    """Returns the run that ended with the lowest validation loss; None where none ended with a finite one."""
    finite = [row for row in rows if math.isfinite(row.eval_loss)]
    return min(finite, key=lambda row: row.eval_loss, default=None)


def horizontal(rows: Sequence[Row], fields: Sequence[str]) -> str:
    """Returns the field that the picture has on its horizontal axis: the first whose values are numbers, the seed last;
    the first of all where none are.
    """
    numeric = [field for field in fields if all(_is_number(row.values[field]) for row in rows)]
    return next((field for field in numeric if field != SEED), (numeric or [*fields])[0])


def geometric(values: Sequence[float]) -> bool:
    """Whether positive numbers are spaced more evenly by their ratios than by their differences; two: by 2 or more."""
    ordered = sorted(set(values))
    if len(ordered) < 2 or ordered[0] <= 0:
        return False
    if len(ordered) == 2:
        return ordered[1] / ordered[0] >= 2
    linear, ratios = np.diff(ordered), np.diff(np.log(ordered))
    return bool(np.std(ratios) / np.mean(ratios) < np.std(linear) / np.mean(linear))


def draw(axes: Any, rows: Sequence[Row], fields: Sequence[str]) -> None:
    """Draws the final validation loss on matplotlib's axes, over `horizontal`: a line for each combination of the other
    fields, through the median over seeds, a dot for each run, and a cross at the top for one that failed or diverged.
    """
    across = horizontal(rows, fields)
    others = [field for field in fields if field not in (across, SEED)]
    numeric = all(_is_number(row.values[across]) for row in rows)
    named = list(dict.fromkeys(_words(row.values[across]) for row in rows))

    def place(row: Row) -> float:
        return float(row.values[across]) if numeric else float(named.index(_words(row.values[across])))

    lines = {tuple(_words(row.values[field]) for field in others): None for row in rows}
    for number, combination in enumerate(lines):
        mine = [row for row in rows if tuple(_words(row.values[field]) for field in others) == combination]
        finite = [row for row in mine if math.isfinite(row.eval_loss)]
        lost = [row for row in mine if row.state == "failed" or row.diverged]
        places = sorted({place(row) for row in finite})
        medians = [float(np.median([row.eval_loss for row in finite if place(row) == x])) for x in places]
        label = ", ".join(f"{_end(field)} {word}" for field, word in zip(others, combination, strict=True))
        colour, style = f"C{number % 10}", _LINES[number // 10 % len(_LINES)]
        joined = numeric and len(places) > 1
        axes.plot(
            places,
            medians,
            color=colour,
            linestyle=style if joined else "none",
            marker="" if joined else "_",
            label=label,
        )
        axes.plot(
            [place(row) for row in finite],
            [row.eval_loss for row in finite],
            "o",
            color=colour,
            markersize=4,
            alpha=0.6,
        )
        axes.plot(
            [place(row) for row in lost], [0.97] * len(lost), "x", color=colour, transform=axes.get_xaxis_transform()
        )
    if numeric and geometric([place(row) for row in rows]):
        axes.set_xscale("log")
    if not numeric or len(named) <= _TICKS:
        axes.set_xticks(list(dict.fromkeys(map(place, rows))), named)
        axes.minorticks_off()
    axes.set_xlabel(across)
    axes.set_ylabel("final validation loss, nats a target" + (", median over seeds" if SEED in fields else ""))
    axes.grid(alpha=0.3)
    if others:
        axes.legend()


def _end(field: str) -> str:
    return field.rpartition(".")[2]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _words(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _number(value: float, style: str) -> str:
    return f"{value:{style}}" if math.isfinite(value) else ""
