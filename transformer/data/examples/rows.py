"""Rows of files: named fields, whatever the format, and where each row was found."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformer.data.text import delimited, json_array
from transformer.data.text.jsonl import parsed
from transformer.data.text.pieces import decode_utf8
from transformer.data.text.readers import is_csv, is_json, is_json_array, is_jsonl, is_parquet, is_tsv, raw_lines
from transformer.errors import UserError


class Row(NamedTuple):
    """An example as a file has it."""

    where: str
    """File and line, for people."""
    values: dict[str, Any]
    """Field -> value: text, a number, a list."""

    def value(self, field: str, flag: str) -> Any:
        """Returns a field's value; UserError names the flag that names the field, where the row has none."""
        if self.values.get(field) is None:
            there = ", ".join(name for name, value in self.values.items() if value is not None) or "none"
            raise UserError(f"{self.where}: no {field!r}; it has: {there}. Name another with {flag}")
        return self.values[field]

    def text(self, field: str, flag: str) -> str:
        """Returns a field's text; UserError where it is none, or blank."""
        text = self.value(field, flag)
        if not isinstance(text, str):
            raise UserError(f"{self.where}: {field} is a {type(text).__name__}, not a text. Name another with {flag}")
        if not text.strip():
            raise UserError(f"{self.where}: {field} is empty: leave the row out, or say something")
        return text


SUFFIXES = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")
"""Endings of the files that `rows_of` reads; all but the last also with .gz or .zst behind."""


def rows_of(path: Path, columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yields the rows of a file, which is read lazily.

    Args:
      path: a table, or JSON objects.
      columns: names of the columns of a .tsv or .csv file that does not begin with them.

    Raises:
      UserError: the file is of another kind, damaged, or a row has not as many cells as there are columns.
    """
    if is_tsv(path) or is_csv(path):
        yield from _of_cells(path, columns)
    elif columns:
        raise UserError(f"{path}: --data.columns names the columns of .tsv and .csv files; this one names its own")
    elif is_parquet(path):
        yield from _of_parquet(path)
    elif is_json(path) and is_json_array(path):
        for index, item in json_array.items(path):
            yield _of_object(item, f"{path}: item {index + 1}")
    elif is_jsonl(path):
        offset = 0
        for number, line in enumerate(raw_lines(path), start=1):
            text = decode_utf8(line, path, offset)
            offset += len(line)
            if text.removeprefix("\ufeff").strip():
                yield _of_object(parsed(text, f"{path}:{number}"), f"{path}:{number}")
    else:
        raise UserError(f"{path}: not a file of examples: give {', '.join(SUFFIXES)}")


def _of_cells(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    cells = delimited.lines_of_cells(path)
    names = [name.strip() for name in (columns or next(cells, (0, []))[1])]
    if len(set(names)) != len(names) or not all(names):
        raise UserError(f"{path}: its columns are {', '.join(map(repr, names))}: each needs a name of its own")
    for line, row in cells:
        if len(row) != len(names):
            told = "as --data.columns says" if columns else "as its first line says"
            raise UserError(f"{path}:{line}: {len(row)} cells, and there are {len(names)} columns, {told}")
        yield Row(f"{path}:{line}", dict(zip(names, row, strict=True)))


def _of_parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in table.iter_batches():
            for values in batch.to_pylist():
                yield Row(f"{path}: row {number + 1}", values)
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a Parquet file that can be read ({str(error).splitlines()[0]})") from None


def _of_object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {json.dumps(value)[:60]} is not an object with fields")
    return Row(where, value)
