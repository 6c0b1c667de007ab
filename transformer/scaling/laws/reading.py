"""Reading anybody's table of runs: a CSV file with columns for two of N, D and C, and for the loss."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer.errors import UserError
from transformer.scaling.laws import csv_file, settings, units, words
from transformer.scaling.laws.cell_numbers import Unclear, decimal_mark, parse
from transformer.scaling.laws.columns import Columns as Columns
from transformer.scaling.laws.columns import resolve, usual
from transformer.scaling.laws.csv_file import CsvFile
from transformer.scaling.laws.table import RunTable
from transformer.scaling.laws.warned import Warned

_SMALLEST, _LARGEST = 1e-30, 1e60
"""Range of numbers that a run can have; products of others could overflow."""


def read(path: str | Path, columns: Columns = Columns(), where: Sequence[str] = ()) -> RunTable:
    """Returns the runs of a CSV file with a header line.

    Args:
      path: the file.
      columns: names of the columns; those not named go by their usual names.
      where: COLUMN=VALUE, rows to take, as `settings.where`.

    Raises:
      UserError: no such file, no rows, no such column, a value that is no positive finite number, or units that
        contradict each other.
    """
    file, chosen = settings.where(csv_file.read(path), where)
    columns = resolve(file, columns)
    names = columns.params, columns.tokens, columns.flops, columns.loss, columns.unique_tokens
    used = [name for name in names if name is not None]
    by_name = dict(zip(used, numbers(file, used), strict=True))
    params, tokens, flops, loss, unique = (None if name is None else by_name[name] for name in names)
    counted = flops is None or params is None or tokens is None
    if params is None:
        assert flops is not None
        assert tokens is not None
        params = flops / (6 * tokens)
    if tokens is None:
        assert flops is not None
        tokens = flops / (6 * params)
    flops = 6 * params * tokens if flops is None else flops
    assert loss is not None
    cell = [params, tokens] if unique is None else [params, tokens, unique]
    setting, warned = settings.told(file, chosen, used, loss, *cell)
    table = RunTable(
        params=params,
        tokens=tokens,
        loss=loss,
        flops=flops,
        unique_tokens=unique,
        names=tuple(f"line {row.line}" for row in file.rows),
        convention="6ND" if counted else f"column {columns.flops}",
        setting=setting,
        columns=dataclasses.asdict(columns) | ({"where": " ".join(where)} if where else {}),
    )
    return dataclasses.replace(table, warned=(*_copies(file), *warned, *units.check(str(path), table)))


def read_sweeps(
    path: str | Path, setting: str, by: Sequence[str], loss: str | None, where: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Returns the arguments of `power_law.fit` from a CSV file: the swept setting [R], the loss, and the variables.

    A run that diverged has an empty loss, or one that is not finite.

    Raises:
      UserError: as `read`.
    """
    file, _ = settings.where(csv_file.read(path), where)
    if loss is None:
        names = usual(file, "loss")
        loss = names[0] if len(names) == 1 else "loss"
    if wrong := file.wrong_names([("setting", setting), ("loss", loss), *(("by", name) for name in by)]):
        raise file.lacking(wrong)
    swept, losses, *others = numbers(file, [setting, loss, *by], diverged=loss)
    return swept, losses, dict(zip(by, others, strict=True))


def _copies(file: CsvFile) -> list[Warned]:
    """Returns a warning about rows that repeat another."""
    first: dict[tuple[str, ...], int] = {}
    copies = [row.line for row in file.rows if first.setdefault(tuple(row.cells), row.line) != row.line]
    if not copies:
        return []
    line = (
        f"{words.count(len(copies), 'row')} repeat another in every cell, such as line {copies[0]}: they count twice, "
        "and make intervals too narrow; take them out"
    )
    return [Warned("copied-rows", line)]


def drop_highest(table: RunTable, count: int) -> RunTable:
    """Returns the table without the rows of the `count` highest losses.

    Raises:
      UserError: there are not so many, or the count is negative.
    """
    if not 0 <= count < len(table):
        raise UserError(f"--drop-highest {count}: the table has {words.count(len(table), 'row')}")
    return table.take(np.sort(np.argsort(table.loss, kind="stable")[: len(table) - count]))


def numbers(file: CsvFile, names: Sequence[str], diverged: str | None = None) -> list[np.ndarray]:
    """Returns columns [R] of positive finite numbers, of a file that has each once.

    Args:
      file: the table's file.
      names: the columns.
      diverged: the column, one of `names`, in which a run may have diverged: there an empty cell is NaN, and values
        that are not finite stay.

    Raises:
      UserError: a cell is no such number, or could be two.
    """
    cells = [file.column(name) for name in names]
    try:
        mark = decimal_mark(text for column in cells for text in column)
    except Unclear as error:
        raise UserError(f"{file.path}: {error}") from None
    columns_nr = np.empty((len(names), len(file.rows)))
    for name, column, values in zip(names, cells, columns_nr, strict=True):
        for place, (row, text) in enumerate(zip(file.rows, column, strict=True)):
            where = f"{file.path}, line {row.line}: {name} is"
            try:
                values[place] = parse(text or ("nan" if name == diverged else ""), mark)
            except Unclear as error:
                raise UserError(f"{where} {text!r}, {error}") from None
            if not np.isfinite(values[place]) and name == diverged:
                continue
            if not (np.isfinite(values[place]) and values[place] > 0):
                raise UserError(f"{where} {text}: it must be positive and finite; take the row out if the run failed")
            if not _SMALLEST < values[place] < _LARGEST:
                raise UserError(f"{where} {text}: no run has that")
    return list(columns_nr)
