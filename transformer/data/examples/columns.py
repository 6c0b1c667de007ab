"""Files with a word and its tag a line (CoNLL): blank lines end sentences, and -DOCSTART- lines begin documents."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from transformer.data.examples.rows import Row
from transformer.data.text.pieces import decode_utf8
from transformer.data.text.readers import COMPRESSED, raw_lines
from transformer.errors import UserError

SUFFIXES = (".conll", ".conllu", ".bio", ".iob", ".iob2", ".txt", ".tsv")
"""Endings of files of columns; all also with .gz or .zst behind."""


class Columns(NamedTuple):
    """Which columns hold what, by number from 1; None: the first has words and the last tags, of .conllu the second and
    the fourth."""

    word: int | None = None
    tag: int | None = None


def _suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix.lower() in COMPRESSED else path).suffix.lower()


def is_columns(path: Path) -> bool:
    """Whether a file is one of columns, by its name."""
    return _suffix(path) in SUFFIXES


def sentences_of(path: Path, columns: Columns, names: tuple[str, str]) -> Iterator[Row]:
    """Yields the sentences of a file, which is read lazily; whether a blank line ends the last one does not matter.

    Args:
      path: columns between tabs or, in lines without one, between spaces.
      columns: which of them are read.
      names: fields of a row that get its words and its tags.

    Raises:
      UserError: a line has other columns than its sentence, or a column is missing or empty.
    """
    universal = _suffix(path) == ".conllu"  # https://universaldependencies.org/format.html
    columns = Columns(columns.word or (2 if universal else 1), columns.tag or (4 if universal else None))
    sentence: list[tuple[str, str]] = []
    begins, width, offset = 0, 0, 0

    def row() -> Row:
        words, tags = map(list, zip(*sentence, strict=True))
        return Row(f"{path}:{begins}", dict(zip(names, (words, tags), strict=True)))

    for number, raw in enumerate(raw_lines(path), start=1):
        line = decode_utf8(raw, path, offset).removeprefix("\ufeff").strip("\r\n")
        offset += len(raw)
        if columns.word != 1 and line.startswith("#"):
            continue  # a comment, where lines begin with a word's number, as in .conllu and in GermEval's files
        if not line.strip() or line.startswith("-DOCSTART-"):
            if sentence:
                yield row()
            sentence = []
            continue
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        if universal and not cells[0].isdecimal():
            continue  # a range of words that are written as one, or a word that is not written
        if not sentence:
            begins, width = number, len(cells)
        if len(cells) != width:
            raise UserError(f"{path}:{number}: {len(cells)} columns, and line {begins} of its sentence has {width}")
        sentence.append(_word(cells, columns, f"{path}:{number}"))
    if sentence:
        yield row()


def _word(cells: list[str], columns: Columns, where: str) -> tuple[str, str]:
    """Returns a line's word and tag."""
    if len(cells) < 2:
        raise UserError(f"{where}: one column: a line has a word and its tag, with a tab or spaces between")
    found = []
    for column, flag in ((columns.word, "--data.word-column"), (columns.tag or len(cells), "--data.tag-column")):
        if column is None or column > len(cells):
            raise UserError(f"{where}: {len(cells)} columns, and {flag} {column} is none of them")
        if not cells[column - 1]:
            raise UserError(f"{where}: column {column} is empty: choose another with {flag}")
        found.append(cells[column - 1])
    return found[0], found[1]
