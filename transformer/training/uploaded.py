"""A file that grows, where files cannot: in an object store."""

from etils import epath
from tensorboardX import record_writer


class Uploaded:
    """A binary file of an object store, which has no append: kept in memory, and written whole at each flush."""

    def __init__(self, path: epath.PathLike):
        self._path = epath.Path(path)
        self._content = bytearray(self._path.read_bytes() if self._path.exists() else b"")

    def write(self, content: bytes) -> None:
        """Adds to the end, in memory."""
        self._content += content

    def flush(self) -> None:
        """Uploads everything."""
        self._path.write_bytes(bytes(self._content))

    close = flush


class _EventFiles:
    """What tensorboardX wants of a store: its own ways there need each store's client beside the one of `epath`."""

    open = staticmethod(Uploaded)

    @staticmethod
    def directory_check(path: str) -> None:
        """An object store has no folders to make."""


def register() -> None:
    """Has tensorboardX write its event files to object stores so, too."""
    for scheme in ("gs", "s3"):
        record_writer.register_writer_factory(scheme, _EventFiles)
