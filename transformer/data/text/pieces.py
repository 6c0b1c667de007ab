"""Documents as a stream of pieces, so that a file of any size is read in bounded memory.

A document is one or more consecutive pieces; the last one says so. Its text is theirs, one after the other.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from transformer.data import receipts
from transformer.data.text.readers import BOM, open_text
from transformer.errors import UserError

PIECE_CHARS = 1 << 16
_BLOCK_BYTES = 1 << 20


class Piece(NamedTuple):
    text: str
    ends_document: bool


def cut_text(text: str) -> tuple[list[str], str]:
    """Cuts whole pieces off the front of `text`; returns them and the rest, at most `PIECE_CHARS` characters long.

    A piece ends before a newline where it can, because tokens like "newline + indentation + def" start with theirs.
    """
    pieces, start = [], 0
    while len(text) - start > PIECE_CHARS:
        newline = text.rfind("\n", start + PIECE_CHARS // 2, start + PIECE_CHARS)
        end = newline if newline > start else start + PIECE_CHARS
        pieces.append(text[start:end])
        start = end
    return pieces, text[start:]


def whole_document(text: str) -> Iterator[Piece]:
    """One document that is already in memory, as one piece; none where it is empty."""
    if text:
        yield Piece(text, ends_document=True)


def cut_document(text: str) -> Iterator[Piece]:
    """One document in pieces of up to `PIECE_CHARS` characters; an empty document has none."""
    if not text:
        return
    pieces, rest = cut_text(text)
    for piece in pieces:
        yield Piece(piece, ends_document=False)
    yield Piece(rest, ends_document=True)


def decode_utf8(data: bytes, path: Path, offset: int) -> str:
    """Returns the text of `data`, found at byte `offset` of `path`; UserError names the file and byte that is not text.

    The one decoder of all formats: a byte order mark that a file begins with is no part of its text.
    """
    if not offset:
        _check_start(path, data)
        if data.startswith(BOM):
            data, offset = data[len(BOM) :], len(BOM)
    nul = data.find(b"\0")
    if nul >= 0:
        raise UserError(f"{path} is binary, not text: NUL at byte {offset + nul}. Remove it from the corpus.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start}. "
            "Convert it (`iconv -t utf-8`) or remove it from the corpus."
        ) from None


def _check_start(path: Path, data: bytes) -> None:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path} is UTF-16, not UTF-8: convert it (`iconv -f utf-16 -t utf-8`).")


def digest_text(path: Path) -> str:
    """A hash of a text file's bytes; of one with a byte order mark another than of the bytes alone, which was its hash
    when the mark was taken for text.

    Raises:
      UserError: the file cannot be read, or is UTF-16.
    """
    digest = receipts.hash_file(path)
    with open_text(path) as file:
        start = file.read(len(BOM))
    _check_start(path, start)
    return receipts.combine("after a byte order mark", digest) if start == BOM else digest


def file_pieces(path: Path, start: int, stop: int) -> Iterator[Piece]:
    """Yields bytes [start, stop) of a file's text as one document. Newlines stay as they are in the file."""
    text, carry, position = "", b"", start
    with open_text(path, start) as file:
        while position < stop:
            data = file.read(min(_BLOCK_BYTES, stop - position))
            if not data:
                raise UserError(f"{path} shrank while it was read. Run again.")
            block_start = position - len(carry)
            position += len(data)
            data = carry + data
            whole = len(data) if position >= stop else _complete_utf8(data)
            carry = data[whole:]
            pieces, text = cut_text(text + decode_utf8(data[:whole], path, block_start))
            for piece in pieces:
                yield Piece(piece, ends_document=False)
    if text:
        yield Piece(text, ends_document=True)


def _complete_utf8(data: bytes) -> int:
    """Returns the length of `data` without a character that its end cuts in two."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:  # not a continuation byte: a character starts here
            needed = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if needed > back else len(data)
    return len(data)
