"""Files that grow with a run (`metrics.jsonl` and TensorBoard's events), on a disk that may be full, or in an object
store, where no file can grow.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from etils import epath

from transformer.checkpoint import parts, write_atomically
from transformer.checkpoint.seal import is_local

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

PART_BYTES = 2**18
"""Size at which a part of a file in an object store is full. Until then each flush writes the part again."""
_LOCAL = "local"
"""Scheme of local paths for tensorboardX, so that it writes local files through `Appended`."""


class Appended:
    """A local binary file to append to. Bytes that find no room are kept, and written before the next ones.

    So a full disk does not end a run, and a kill leaves a prefix of what was written.
    """

    def __init__(self, path: epath.PathLike):
        self._path, self._waiting, self._failed = str(path), bytearray(), False
        self._file: Any = None
        self.flush()

    def write(self, content: bytes) -> None:
        """Appends bytes, which readers find at once."""
        self._waiting += content
        self.flush()

    def flush(self) -> None:
        """Writes the waiting bytes, as far as there is room."""
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
        """Writes the waiting bytes, and warns if they are lost."""
        self.flush()
        if self._waiting:
            _warn(f"{self._path}: the last {len(self._waiting):,} bytes are lost: there came no room for them")
        if self._file is not None:
            self._file.close()


class Uploaded:
    """A binary file in an object store, which cannot append: its last part is held in memory, uploaded at a flush."""

    def __init__(self, path: epath.PathLike, *, joined: bool = True):
        """Opens a file to append to, which may exist.

        Args:
          path: the file; see `checkpoint.parts`.
          joined: whether closing makes one file of the parts.
        """
        self._path, self._joined, self._failed = epath.Path(path), joined, False
        if self._path.exists():
            join(self._path)
            self._start = self._path.stat().length
        else:
            self._start = 0
        self._part, self._uploaded = bytearray(), 0

    def write(self, content: bytes) -> None:
        """Appends bytes, in memory."""
        self._part += content

    def flush(self) -> None:
        """Uploads the last part if it has new bytes. If the store fails, the next flush tries again."""
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
        """Uploads new bytes, and joins the parts."""
        self.flush()
        if self._uploaded < len(self._part):
            _warn(f"{self._path}: the last {len(self._part) - self._uploaded:,} bytes are lost: it takes none")
        if self._joined:
            with contextlib.suppress(Exception):  # readers take the parts as well
                join(self._path)


def opened(path: epath.Path) -> Appended | Uploaded:
    """Returns a file to append to, local or in an object store."""
    return Appended(path) if is_local(path) else Uploaded(path)


def read(path: epath.Path) -> bytes:
    """Returns the content of such a file, also while a run appends to it; raises FileNotFoundError."""
    return parts.read(path)


def replace(path: epath.Path, content: bytes) -> None:
    """Replaces the content of such a file; a kill leaves the old content or the new."""
    write_atomically(path, content)
    for place in parts.later(path):
        place.unlink()


def join(path: epath.Path) -> None:
    """Joins a file's parts into one file, if it has any."""
    if parts.later(path):
        replace(path, parts.read(path))


class _EventFiles:
    """tensorboardX's interface to a store: its own would need each store's client beside that of `epath`."""

    @staticmethod
    def open(path: str) -> Uploaded:
        """Opens an event file, left in parts: TensorBoard reads a folder of event files as one, by their names."""
        return Uploaded(path, joined=False)

    @staticmethod
    def directory_check(path: str) -> None:
        """Does nothing: an object store has no folders."""


class _LocalEventFiles:
    """Local event files: an error in tensorboardX's own would kill its thread, for which the run would wait forever."""

    @staticmethod
    def open(path: str) -> Appended:
        return Appended(path.removeprefix(f"{_LOCAL}:"))

    @staticmethod
    def directory_check(path: str) -> None:
        with contextlib.suppress(OSError):
            epath.Path(path.removeprefix(f"{_LOCAL}:")).mkdir(parents=True, exist_ok=True)


def event_writer(folder: epath.Path, **options: Any) -> "SummaryWriter":
    """Returns tensorboardX's writer of event files in a folder, which it writes through the classes above.

    Args:
      folder: on a disk or in an object store.
      options: the writer's own.
    """
    # Brings protobuf: half a second that reading rows need not wait for.
    with _without_torch():
        from tensorboardX import SummaryWriter, record_writer

    for scheme in ("gs", "s3"):
        record_writer.register_writer_factory(scheme, _EventFiles)
    record_writer.register_writer_factory(_LOCAL, _LocalEventFiles)
    return SummaryWriter(f"{_LOCAL}:{folder}" if is_local(folder) else str(folder), **options)


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """A context in which nothing imports PyTorch.

    tensorboardX does where it is installed, for the name of one type: seconds of each start, and CUDA's libraries
    beside JAX's own.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment] - this is how Python is told that there is none
    try:
        yield
    finally:
        del sys.modules["torch"]


def _warn(line: str) -> None:
    """Prints below the progress bar."""
    print(f"\n{line}", file=sys.stderr, flush=True)
