"""Files by their names: what they hold, and their text as a stream of bytes, whether compressed or not.

`.gz` and `.zst` are decompressed on the way, several members or frames too. `.jsonl` and `.ndjson` hold an object a
line; `.json` too, or one array; `.tsv` and `.csv` columns, `.parquet` a table (`parquet.py`); all others are text.
"""

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from transformer.errors import UserError

COMPRESSED = (".gz", ".zst")
BOM = codecs.BOM_UTF8
_BLOCK_BYTES = 1 << 20
_EXPANSION = 3  # text is about three times as long as what gzip makes of it


def is_compressed(path: Path) -> bool:
    return path.suffix.lower() in COMPRESSED


def is_jsonl(path: Path) -> bool:
    """Whether a file holds an object a line; a .json file is looked into."""
    return _content_suffix(path) in (".jsonl", ".ndjson") or (is_json(path) and not is_json_array(path))


def is_json(path: Path) -> bool:
    return _content_suffix(path) == ".json"


def is_json_array(path: Path) -> bool:
    """Whether a .json file is one array: it begins with a bracket."""
    if not is_json(path):
        return False
    with open_text(path) as file:
        return file.read(_BLOCK_BYTES).removeprefix(BOM).lstrip()[:1] == b"["


def is_tsv(path: Path) -> bool:
    return _content_suffix(path) == ".tsv"


def is_csv(path: Path) -> bool:
    return _content_suffix(path) == ".csv"


def is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _content_suffix(path: Path) -> str:
    return (path.with_suffix("") if is_compressed(path) else path).suffix.lower()


@contextlib.contextmanager
def open_text(path: Path, start: int = 0) -> Iterator[BinaryIO]:
    """Gives the bytes of a file's text from byte `start` on, decompressed; compressed text before `start` is read too.

    Raises:
      UserError: within the block too: the file cannot be read, or is not a whole compressed file.
    """
    suffix = path.suffix.lower()
    try:
        with _open(path, suffix) as file:
            file.seek(start)
            yield file
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied.") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        if not is_compressed(path):
            raise
        name = "gzip" if suffix == ".gz" else "Zstandard"
        reason = (str(error).splitlines() or ["damaged"])[0].rstrip(".")
        raise UserError(f"{path} is not a whole {name} file ({reason}). Copy it again.") from None


def _open(path: Path, suffix: str) -> BinaryIO:
    if suffix == ".gz":
        return io.BufferedReader(gzip.open(path), _BLOCK_BYTES)
    if suffix == ".zst":
        return io.BufferedReader(_Zstandard(path), _BLOCK_BYTES)
    return path.open("rb")


class _Zstandard(io.RawIOBase):
    """The text of a Zstandard file. The library's own reader takes a file that ends within a frame for a whole one."""

    def __init__(self, path: Path):
        import zstandard

        self._error = zstandard.ZstdError
        # Frames of `zstd --long=31` too.
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._file = path.open("rb")
        self._frame = None  # being read
        self._left = b""  # read, not yet decompressed
        self._text = memoryview(b"")  # decompressed, not yet given out
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes forward only, by reading."""
        if whence != io.SEEK_SET or offset < self._place:
            raise io.UnsupportedOperation("a compressed file is read forward")
        while self._place < offset and self.readinto(bytearray(min(_BLOCK_BYTES, offset - self._place))):
            pass
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer) -> int:
        while not self._text and self._more():
            pass
        size = min(len(buffer), len(self._text))
        buffer[:size] = self._text[:size]
        self._text = self._text[size:]
        self._place += size
        return size

    def _more(self) -> bool:
        """Decompresses some more, if there is more."""
        data = self._left or self._file.read(_BLOCK_BYTES >> 3)
        if not data:
            if self._frame is not None:
                raise EOFError("it ends within a frame")
            return False
        if self._frame is None:
            self._frame = self._decompressor.decompressobj()
        try:
            self._text = memoryview(self._frame.decompress(data))
        except self._error as error:
            raise EOFError(str(error)) from None
        self._left = b""
        if self._frame.eof:
            self._left, self._frame = self._frame.unused_data, None
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


def raw_lines(path: Path, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yields the lines in bytes [start, stop) of a file's text, with their ends; UserError for what cannot be read.

    A line ends with a line feed, before which a carriage return may stand.
    """
    offset = start
    with open_text(path, start) as file:
        while (stop is None or offset < stop) and (line := file.readline()):
            if not offset and not line.endswith(b"\n") and b"\r" in line.rstrip(b"\r\n"):
                raise UserError(f"{path} ends its lines with carriage returns alone. Convert it (`tr '\\r' '\\n'`).")
            yield line
            offset += len(line)


def text_size(path: Path) -> int:
    """Returns the bytes of a file's text, which is read to its end if it is compressed."""
    if not is_compressed(path):
        return path.stat().st_size
    size = 0
    with open_text(path) as file:
        while block := file.read(_BLOCK_BYTES):
            size += len(block)
    return size


def rough_text_size(path: Path) -> int:
    """Returns about the bytes of a file's text, without reading it."""
    return path.stat().st_size * (_EXPANSION if is_compressed(path) else 1)
