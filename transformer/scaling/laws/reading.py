"""Reading anybody's table of runs: a CSV file with columns for the size, the tokens or FLOPs, and the loss."""

import csv
import dataclasses
import difflib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws.table import Table


@dataclasses.dataclass(frozen=True)
class Columns:
    """What the columns are called."""

    params: str = "params"
    """N of a run."""
    tokens: str | None = None
    """D, tokens read in training; not needed where there is --flops: D = C / (6 N). None: `tokens`, or from --flops."""
    loss: str = "loss"
    """Loss of the trained model, nats."""
    flops: str | None = None
    """C, FLOPs of the training; None: C = 6 N D."""
    unique_tokens: str | None = None
    """Tokens that the corpus has, where they were read more than once; None: none was."""


def read(path: str | Path, columns: Columns = Columns()) -> Table:
    """Returns the runs of a CSV file with a header line, whose other columns do not matter.

    Raises:
      UserError: no such file, no rows, no such column, or a value that is no positive finite number.
    """
    names, lines = rows(Path(path).expanduser())
    if columns.tokens is None and columns.flops is None:
        columns = dataclasses.replace(columns, tokens="tokens")
    params, loss = (
        _column(path, names, lines, "params", columns.params),
        _column(path, names, lines, "loss", columns.loss),
    )
    flops = None if columns.flops is None else _column(path, names, lines, "flops", columns.flops)
    if columns.tokens is not None:
        tokens = _column(path, names, lines, "tokens", columns.tokens)
    else:
        assert flops is not None
        tokens = flops / (6 * params)
    unique = None
    if columns.unique_tokens is not None:
        unique = _column(path, names, lines, "unique-tokens", columns.unique_tokens)
    convention = "6ND" if flops is None or columns.tokens is None else f"column {columns.flops}"
    return Table(
        params=params,
        tokens=tokens,
        loss=loss,
        flops=6 * params * tokens if flops is None else flops,
        unique_tokens=unique,
        names=tuple(f"line {number}" for number, _ in lines),
        convention=convention,
    )


def read_sweeps(
    path: str | Path, setting: str, by: Sequence[str], loss: str
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Returns what `power_law.fit` takes of a CSV file: [R] the setting that was swept, the loss, and what it is by.

    A run that diverged has an empty loss, or one that is not finite.

    Raises:
      UserError: as `read`.
    """
    names, lines = rows(Path(path).expanduser())
    columns = {name: _column(path, names, lines, "by", name) for name in by}
    losses = _column(path, names, lines, "loss", loss, diverged=True)
    return _column(path, names, lines, "setting", setting), losses, columns


def drop_highest(table: Table, count: int) -> Table:
    """Returns the table without the rows of the `count` highest losses.

    Raises:
      UserError: there are not so many, or the count is negative.
    """
    if not 0 <= count < len(table):
        raise UserError(f"--drop-highest {count}: the table has {len(table)} rows")
    return table.take(np.sort(np.argsort(table.loss, kind="stable")[: len(table) - count]))


def rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Returns the header of a CSV file, and its rows with their line numbers; blank lines are none.

    Raises:
      UserError: no such file, no CSV, or no row.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file: {error}") from error
    if not lines:
        raise UserError(f"{path} is empty: it needs a header line and a row for each run")
    names = [name.strip() for name in lines[0][1]]
    if len(lines) == 1:
        raise UserError(f"{path} has a header and no row")
    return names, lines[1:]


def _column(
    path: str | Path,
    names: list[str],
    lines: list[tuple[int, list[str]]],
    flag: str,
    name: str,
    *,
    diverged: bool = False,
) -> np.ndarray:
    """Returns a column; where runs may have diverged, NaN for an empty cell, and what is not finite as it is."""
    if names.count(name) != 1:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean --{flag} {near[0]}?" if near else f"give --{flag} one of: {', '.join(names)}"
        raise UserError(f"{path} has {names.count(name)} columns {name!r}; {hint}")
    place = names.index(name)
    values = np.empty(len(lines))
    for row, (number, cells) in enumerate(lines):
        text = cells[place].strip() if place < len(cells) else ""
        values[row] = number_of(f"{path}, line {number}: {name}", text, diverged=diverged)
    return values


def number_of(what: str, text: str, *, diverged: bool = False) -> float:
    """Returns the positive number of a cell; where runs may have diverged, NaN for an empty one, or what is not finite.

    Raises:
      UserError: it is none; `what` says where it stands.
    """
    try:
        value = float(text or "nan") if diverged else float(text)
    except ValueError:
        raise UserError(f"{what} is {text!r}, which is no number") from None
    if not (value > 0 if math.isfinite(value) else diverged):
        raise UserError(f"{what} is {text}: it must be positive and finite; take the row out if the run failed")
    return value
