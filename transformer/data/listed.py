"""Files that list samples, a row each: where a sample's file is, and what is said in or of it."""

import json
from collections.abc import Iterator
from pathlib import Path

from transformer.errors import UserError


def listed(path: Path, file: tuple[str, ...], text: tuple[str, ...]) -> Iterator[tuple[int, str, str]]:
    """Yields (line, file, text) of each row of a .tsv or .jsonl file; a .tsv file needs no header.

    Args:
      path: the file; one that does not end in .jsonl is a table of tabs.
      file: what the field or the column of the file may be called, the usual name first.
      text: likewise of the text.

    Raises:
      UserError: the file cannot be read, or a row lacks something; it names the line.
    """
    return (_json_rows if path.suffix == ".jsonl" else _table_rows)(path, file, text)


def _json_rows(path: Path, file: tuple[str, ...], text: tuple[str, ...]) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: not a JSON object")
        where = f"{path}, line {number}"
        yield number, _named(row, file, where), _named(row, text, where)


def _table_rows(path: Path, file: tuple[str, ...], text: tuple[str, ...]) -> Iterator[tuple[int, str, str]]:
    rows = [line.split("\t") for line in _lines(path)]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    named = not {*header}.isdisjoint(file) and not {*header}.isdisjoint(text)
    for number, cells in enumerate(rows[named:], 1 + named):
        if not any(cells):
            continue
        where = f"{path}, line {number}"
        row = dict(zip(header if named else (file[0], text[0]), cells, strict=False))
        yield number, _named(row, file, where), _named(row, text, where)


def _named(row: dict, names: tuple[str, ...], where: str) -> str:
    """Returns the first of some fields that a row has."""
    value = next((row[name] for name in names if row.get(name)), None)
    if not isinstance(value, str):
        raise UserError(f"{where}: it has no {names[0]} (a field or column {', '.join(names)})")
    return value


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
