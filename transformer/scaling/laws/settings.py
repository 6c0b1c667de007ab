"""Settings: which rows of a table are runs of one setting, chosen by a column or told apart by an unnamed one.

A column of the table that is neither N, D, C, loss nor named in --where holds *settings* if

- it is none of repeats (`seed`, `repeat`, `trial`, `replicate`, `fold`, `run`, `name`, `id`, `index`, `line`, `date`);
- it has at least two values, and at most half as many as there are rows: otherwise it numbers or measures the runs;
- in at least two cells (rows of equal N, D and unique tokens), or in the only one that has several rows, rows with
  different values of it differ in their loss by over 0.1 %;
- or, where no cell has rows of several values: it is text, with two to six values on three rows or more each, and each
  value is on several N, D, budgets, and ratios of D to N. (Text that goes with one of these, such as `small` or
  `20 tokens per parameter`, tells how the runs were planned and is no setting.)
"""

import contextlib
import math
from collections.abc import Sequence

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws.cell_numbers import Unclear, all_numbers, parse
from transformer.scaling.laws.csv_file import CsvFile
from transformer.scaling.laws.warned import Warned

_REPEATS = {"seed", "repeat", "trial", "replicate", "fold", "run", "name", "id", "index", "line", "date"}
_APART = 1e-3
"""Relative difference above which losses are different."""
_PLANNED = 0.05
"""Relative difference within which sizes, tokens, budgets or ratios were planned alike."""


def where(file: CsvFile, chosen: Sequence[str]) -> tuple[CsvFile, list[str]]:
    """Returns the rows that `COLUMN=VALUE`s choose, and the columns named; several values of one column are all taken.

    Raises:
      UserError: it is no COLUMN=VALUE, there is no such column, or no such row.
    """
    values: dict[str, list[str]] = {}
    for text in chosen:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--where {text}: give COLUMN=VALUE, such as --where setting=tuned")
        if wrong := file.wrong_names([("where", name.strip())]):
            raise file.lacking(wrong)
        values.setdefault(name.strip(), []).append(value.strip())
    rows = list(range(len(file.rows)))
    for name, wanted in values.items():
        cells = file.column(name)
        for value in wanted:
            if not any(_same(cells[row], value) for row in rows):
                had = sorted({cells[row] for row in rows})
                shown = ", ".join(had[:8]) + (f" and {len(had) - 8} more" if len(had) > 8 else "")
                raise UserError(f"--where {name}={value}: no row of {file.path} has it; its values are: {shown}")
        rows = [row for row in rows if any(_same(cells[row], value) for value in wanted)]
    return file._replace(rows=[file.rows[row] for row in rows]), list(values)


def told(
    file: CsvFile, named: Sequence[str], used: Sequence[str], loss: np.ndarray, *cell: np.ndarray
) -> tuple[np.ndarray | None, list[Warned]]:
    """Returns the setting of each row, [R] int, or None if all share one; and a warning for each unnamed column.

    Args:
      file: the table's file.
      named: columns of --where.
      used: the columns that the law reads.
      loss: [R].
      cell: [R] each: the columns on which rows of one cell agree.
    """
    _, place = np.unique(np.stack(cell), axis=1, return_inverse=True)
    place, columns, warned = place.ravel(), [name for name in named if len(set(file.column(name))) > 1], []
    for name in dict.fromkeys(file.header):
        if name in used or name in named or file.header.count(name) != 1 or _REPEATS & set(name.lower().split("_")):
            continue
        values = file.column(name)
        if _splits(values, loss, place) or _stands_apart(values, place, cell):
            columns.append(name)
            shown = list(dict.fromkeys(values))
            listed = ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
            line = f"column {name!r} holds {len(shown)} settings ({listed}): choose one, --where {name}={shown[0]}"
            warned.append(Warned("several-settings", line))
    if not columns:
        return None, warned
    keys = list(zip(*map(file.column, columns), strict=True))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys]), warned


def _splits(values: Sequence[str], loss: np.ndarray, place: np.ndarray) -> bool:
    """Whether rows of one cell with different values differ in loss, in two cells or in the only one there is."""
    if not 2 <= len(set(values)) <= len(values) / 2:
        return False
    several = differ = 0
    for cell in np.unique(place):
        by_value: dict[str, list[float]] = {}
        for row in np.flatnonzero(place == cell):
            by_value.setdefault(values[int(row)], []).append(float(loss[row]))
        if len(by_value) > 1:
            means = [float(np.mean(losses)) for losses in by_value.values()]
            several += 1
            differ += max(means) > min(means) * (1 + _APART)
    return several > 0 and differ >= min(several, 2)


def _stands_apart(values: Sequence[str], place: np.ndarray, cell: Sequence[np.ndarray]) -> bool:
    """Whether a column of text that splits no cell has a few values, each over several sizes, tokens and ratios."""
    rows = {value: np.array([each == value for each in values]) for value in dict.fromkeys(values)}
    if all_numbers(values) or not 2 <= len(rows) <= 6 or "" in rows:
        return False
    shared = any(len({values[int(row)] for row in np.flatnonzero(place == each)}) > 1 for each in np.unique(place))
    size, tokens = np.log(cell[0]), np.log(cell[1])
    plans = size, tokens, size + tokens, tokens - size
    over = all(mask.sum() >= 3 and all(np.ptp(plan[mask]) > _PLANNED for plan in plans) for mask in rows.values())
    return over and not shared


def _same(cell: str, value: str) -> bool:
    return cell == value or not _readings(cell).isdisjoint(_readings(value))


def _readings(text: str) -> set[float]:
    """Returns the finite numbers that a text may mean, with a decimal point or with a decimal comma."""
    readings = set()
    for mark in ".,":
        with contextlib.suppress(Unclear):
            readings.add(parse(text, mark))
    return set(filter(math.isfinite, readings))
