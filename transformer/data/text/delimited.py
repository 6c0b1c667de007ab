"""Comma- and tab-separated files whose first line names the columns: the texts of some columns, row by row."""

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformer.data.text.pieces import decode_utf8
from transformer.data.text.readers import is_tsv, raw_lines
from transformer.errors import UserError


def texts(path: Path, columns: Sequence[str], flag: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields the number of each row below the header, from 0, and its texts.

    Cells of a .csv file may be quoted as RFC 4180 has it; those of a .tsv file are as they stand.

    Raises:
      UserError: a column is missing, a row has more or fewer cells than the header, or the file is damaged.
    """
    rows = lines_of_cells(path)
    _, names = next(rows, (0, []))
    names = [name.strip() for name in names]
    for column in columns:
        if names.count(column) != 1:
            raise UserError(
                f"{path}: {'no' if column not in names else 'more than one'} column {column!r}; its first line names: "
                f"{', '.join(names) or 'none'}. Name one with {flag}; to read the file as plain text, name it .txt."
            )
    places = [names.index(column) for column in columns]
    for number, (line, row) in enumerate(rows):
        if len(row) != len(names):
            raise UserError(f"{path}:{line}: {len(row)} cells, and the header has {len(names)}.")
        yield number, tuple(row[place] for place in places)


def count_rows(path: Path) -> int:
    """Returns how many rows lie below the header; UserError where the file is damaged."""
    return max(0, sum(1 for _ in lines_of_cells(path)) - 1)


def lines_of_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, with the number of the line that each ends at."""
    csv.field_size_limit(sys.maxsize)  # a document may be a cell
    lines = _lines(path)
    if is_tsv(path):
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not comma-separated values ({error}).") from None


def _lines(path: Path) -> Iterator[str]:
    offset = 0
    for line in raw_lines(path):
        yield decode_utf8(line, path, offset)
        offset += len(line)
