"""CSV files as people write them, read into a header and rows of text: commas, semicolons or tabs, quotes, comments.

A file that can be read in one way only is read; others are refused with a line. `cell_numbers.py` reads the numbers.
"""

import codecs
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from transformer.errors import UserError, nearest
from transformer.scaling.laws import words

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


class CsvRow(NamedTuple):
    """A record of the file."""

    line: int
    """Number of its (last) line in the file, from 1."""
    cells: list[str]
    """As many as the header has, without spaces around them."""


class CsvFile(NamedTuple):
    """A file's records, all of one length."""

    path: Path
    header: list[str]
    rows: list[CsvRow]

    def column(self, name: str) -> list[str]:
        """Returns the cells of a column; the header has its name once."""
        place = self.header.index(name)
        return [row.cells[place] for row in self.rows]

    def wrong_names(self, named: Iterable[tuple[str, str]]) -> list[str]:
        """Returns a complaint about each named column, (flag, name), that the header does not have exactly once."""
        wrong = []
        for flag, name in named:
            times = self.header.count(name)
            if times != 1:
                near = nearest(name, self.header) if times == 0 else None
                wrong.append(f"{times} columns {name!r} (--{flag}{f'; did you mean {near}?' if near else ''})")
        return wrong

    def lacking(self, wrong: Sequence[str]) -> UserError:
        """Returns the error that lists everything wrong with the columns in one line."""
        return UserError(f"{self.path} has {', and '.join(wrong)}; its columns are: {', '.join(self.header)}")


def read(path: str | Path) -> CsvFile:
    """Returns the records of a file with a header line.

    Cells are separated by whichever of comma, semicolon and tab gives every record the header's number of cells, or by
    spaces where the header has none of them. Blank lines, and lines that begin with `#`, are skipped; but a `#` before
    the only names that a file has (NumPy's `savetxt` writes one) is taken off.

    Raises:
      UserError: no such file, no text, no row, a record with more or fewer cells than the header, or two delimiters
        that both would do.
    """
    path = Path(path).expanduser()
    lines = _lines(path)
    commented = [(number, line) for number, line in lines if line.lstrip().startswith("#")]
    lines = [(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]
    if lines and commented and commented[-1][0] < lines[0][0] and _is_numbers(lines[0][1]):
        number, line = commented[-1]
        lines.insert(0, (number, line.lstrip().lstrip("#")))
    if not lines:
        raise UserError(f"{path} is empty: it needs a header line and a row for each run")
    if len(lines) == 1:
        raise UserError(f"{path} has a header and no row")
    records = _split(path, lines)
    return CsvFile(path, records[0].cells, records[1:])


def _lines(path: Path) -> list[tuple[int, str]]:
    """Returns the lines with their numbers, decoded as the byte order mark says, by default as UTF-8."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a CSV file")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    raw = path.read_bytes()
    encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no CSV file: {error}") from error
    if "\0" in text:
        raise UserError(f"{path} is no CSV file: it has zero bytes")
    if text.lstrip()[:1] in ("{", "["):
        raise UserError(f"{path} is JSON: give a CSV file, with a header line and a row for each run")
    return list(enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1))


def _split(path: Path, lines: Sequence[tuple[int, str]]) -> list[CsvRow]:
    """Returns the records, split by the delimiter that fits them all."""
    names = {mark: name for mark, name in _DELIMITERS.items() if mark in lines[0][1]}
    if not names:
        rows = [CsvRow(number, line.split()) for number, line in lines]
        if len(rows[0].cells) == 1 or any(len(row.cells) != len(rows[0].cells) for row in rows):
            # A single column, whose name may have spaces; or its rows are separated by what the header is not.
            rows = _records(path, lines, ",")
        return _require_even(path, rows)
    tried, failed = {}, []
    for mark in names:
        try:
            tried[mark] = _records(path, lines, mark)
        except UserError as error:
            failed.append(error)
    if not tried:
        raise failed[0]
    even = [mark for mark, rows in tried.items() if all(len(row.cells) == len(rows[0].cells) > 1 for row in rows)]
    if len(even) > 1:
        marks = " and by ".join(names[mark] for mark in even)
        raise UserError(f"{path} can be split by {marks} alike: quote the cells that hold the other mark")
    if even:
        return tried[even[0]]
    return _require_even(path, max(tried.values(), key=lambda rows: len(rows[0].cells)))


def _records(path: Path, lines: Sequence[tuple[int, str]], mark: str) -> list[CsvRow]:
    reader = csv.reader((line + "\n" for _, line in lines), delimiter=mark, skipinitialspace=mark != "\t", strict=True)
    try:
        return [CsvRow(lines[reader.line_num - 1][0], [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        place = lines[min(max(reader.line_num, 1), len(lines)) - 1][0]
        raise UserError(f"{path} is no CSV file: line {place}: {error}") from error


def _require_even(path: Path, rows: list[CsvRow]) -> list[CsvRow]:
    wide = len(rows[0].cells)
    for row in rows[1:]:
        count = len(row.cells)
        if count != wide:
            if wide == 1:
                hint = f"line {rows[0].line} is read as the header: begin it with # if it is none"
            elif count > wide:
                hint = (
                    "a decimal comma or a comma between thousands makes two cells of one: quote such cells, or "
                    "separate them by semicolons"
                )
            else:
                hint = "leave no cell out: an empty one still has its delimiter"
            raise UserError(
                f"{path}, line {row.line}: {words.count(count, 'cell')}, where the header has "
                f"{words.count(wide, 'name')}; {hint}"
            )
    return rows


def _is_numbers(line: str) -> bool:
    """Whether no cell of a line is a word."""
    cells = line.replace(";", " ").replace(",", " ").split()
    return bool(cells) and all(_is_number(cell.strip("\"'")) for cell in cells)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
