"""Files that grow with a run, `metrics.jsonl` and TensorBoard's events: on a disk that may be full, and in an object
store, where no file can grow.
"""

import contextlib
import sys
from typing import Any

from etils import epath

from transformer.checkpoint import parts, write_atomically
from transformer.checkpoint.seal import is_local

PART_BYTES = 2**18
"""A part of a file in an object store is full with so many. Until then each flush writes it again."""
_LOCAL = "local"
"""What tensorboardX gets for a scheme, so that it writes local files by way of `Appended`."""


class Appended:
    """A local binary file that is added to. What finds no room is kept, and written before what comes next.

    So a full disk does not end a run; and what a kill leaves is a beginning of what was written.
    """

    def __init__(self, path: epath.PathLike):
        self._path, self._waiting, self._failed = str(path), bytearray(), False
        self._file: Any = None
        self.flush()

    def write(self, content: bytes) -> None:
        """Adds to the end. A reader finds it there at once."""
        self._waiting += content
        self.flush()

    def flush(self) -> None:
        """Writes what waits, as far as there is room."""
        try:
            if self._file is None:
                self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - closed by `close`
            while self._waiting:
                del self._waiting[: self._file.write(self._waiting)]
        except OSError as error:
            if not self._failed:
                _warn(f"{self._path} could not be written: {error.strerror}. Its rows are kept until there is room")
            self._failed = True
            return
        self._failed = False

    def close(self) -> None:
        """Writes what waits, and says so if it is lost."""
        self.flush()
        if self._waiting:
            _warn(f"{self._path}: the last {len(self._waiting):,} bytes are lost: there came no room for them")
        if self._file is not None:
            self._file.close()


class Uploaded:
    """A binary file of an object store, which has no append: the last of its parts is held, and uploaded at a flush."""

    def __init__(self, path: epath.PathLike, *, joined: bool = True):
        """Goes on at the end of what is there.

        Args:
          path: of the file; see `checkpoint.parts`.
          joined: on closing, make one file of the parts.
        """
        self._path, self._joined, self._failed = epath.Path(path), joined, False
        if self._path.exists():
            join(self._path)
            self._start = self._path.stat().length
        else:
            self._start = 0
        self._part, self._uploaded = bytearray(), 0

    def write(self, content: bytes) -> None:
        """Adds to the end, in memory."""
        self._part += content

    def flush(self) -> None:
        """Uploads what is new, with the rest of its part. A store that does not take it is asked again at the next."""
        if self._uploaded == len(self._part):
            return
        try:
            parts.part(self._path, self._start).write_bytes(bytes(self._part))
        except Exception as error:  # each store's client has its own
            if not self._failed:
                _warn(f"{self._path} could not be written: {error}. Its rows are kept until it can")
            self._failed = True
            return
        self._failed, self._uploaded = False, len(self._part)
        if self._uploaded >= PART_BYTES:
            self._start += self._uploaded
            self._part, self._uploaded = bytearray(), 0

    def close(self) -> None:
        """Uploads what is new, and joins the parts."""
        self.flush()
        if self._uploaded < len(self._part):
            _warn(f"{self._path}: the last {len(self._part) - self._uploaded:,} bytes are lost: it takes none")
        if self._joined:
            with contextlib.suppress(Exception):  # they are found as they are, too
                join(self._path)


def opened(path: epath.Path) -> Appended | Uploaded:
    """Returns a file to add to, local or in an object store."""
    return Appended(path) if is_local(path) else Uploaded(path)


def read(path: epath.Path) -> bytes:
    """Returns the content of such a file, also while a run adds to it; raises FileNotFoundError."""
    return parts.read(path)


def replace(path: epath.Path, content: bytes) -> None:
    """Gives such a file another content; a kill leaves the old one or the new."""
    write_atomically(path, content)
    for place in parts.later(path):
        place.unlink()


def join(path: epath.Path) -> None:
    """Makes one file of a file's parts, if it has some."""
    if parts.later(path):
        replace(path, parts.read(path))


class _EventFiles:
    """What tensorboardX wants of a store: its own ways there need each store's client beside the one of `epath`."""

    @staticmethod
    def open(path: str) -> Uploaded:
        """TensorBoard reads a folder of event files as one, in the order of their names: they are left in parts."""
        return Uploaded(path, joined=False)

    @staticmethod
    def directory_check(path: str) -> None:
        """An object store has no folders to make."""


class _LocalEventFiles:
    """Local event files. Of an error in tensorboardX's own, its thread would die, and the run wait for it for good."""

    @staticmethod
    def open(path: str) -> Appended:
        return Appended(path.removeprefix(f"{_LOCAL}:"))

    @staticmethod
    def directory_check(path: str) -> None:
        with contextlib.suppress(OSError):
            epath.Path(path.removeprefix(f"{_LOCAL}:")).mkdir(parents=True, exist_ok=True)


def board_folder(folder: epath.Path) -> str:
    """Returns a folder's name for tensorboardX, which then writes its event files there by the classes above."""
    from tensorboardX import record_writer  # brings protobuf: half a second that reading rows need not wait for

    for scheme in ("gs", "s3"):
        record_writer.register_writer_factory(scheme, _EventFiles)
    record_writer.register_writer_factory(_LOCAL, _LocalEventFiles)
    return f"{_LOCAL}:{folder}" if is_local(folder) else str(folder)


def _warn(line: str) -> None:
    """Prints below the progress bar."""
    print(f"\n{line}", file=sys.stderr, flush=True)
