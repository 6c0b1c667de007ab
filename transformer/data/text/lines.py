"""The lines of files that hold a pair a line, and where such files can be cut."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from transformer.data.text.pieces import decode_utf8
from transformer.data.text.readers import raw_lines
from transformer.errors import UserError


class Lines(NamedTuple):
    """Lines of the files of a split that lie together."""

    starts: tuple[int, ...]
    """The byte where they begin, in each file."""
    stops: tuple[int, ...] | None
    """And where they end; None: with the files."""
    line: int
    """The number of the first, from 0."""
    pair: int
    """The number of the first pair among them, from 0."""


def cut_lines(cuts: Sequence[Sequence[int]], files: int) -> list[Lines]:
    """Returns the lines between `cuts`, each of which is a byte a file, the number of a line, and that of a pair."""
    stops: list[tuple[int, ...] | None] = [*(tuple(cut[:files]) for cut in cuts[1:]), None]
    return [Lines(tuple(cut[:files]), stop, *cut[files:]) for cut, stop in zip(cuts, stops, strict=True)]


def text_lines(path: Path, start: int = 0, stop: int | None = None) -> Iterator[str]:
    """Yields the lines of a UTF-8 file, without their ends; UserError names what is no text, and an empty file."""
    offset = start
    for line in lines_of(path, start, stop):
        yield decode_utf8(line, path, offset).rstrip("\r\n")
        offset += len(line)


def lines_of(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yields the lines in bytes [start, stop) of a file's text, with their ends; UserError for an empty file."""
    offset = start
    for line in raw_lines(path, start, stop):
        yield line
        offset += len(line)
    if not offset:
        raise UserError(f"{path} is empty.")


def empty_note(name: str, empty: int) -> list[str]:
    """Says how many pairs have an empty side, if any."""
    return [f"{name}: {empty:,} pair{'s' * (empty != 1)} with an empty side left out"] if empty else []
