"""The lock on a run's folder, which allows one start of the run at a time, and which a crash releases.

On a disk it is the kernel's lock (flock) on `RUN/lock.json`, which goes with the process that holds it, however that
ends; over NFS version 4 it holds between machines. In an object store, and on a disk without such locks, the file
itself is the lock: its holder keeps writing the time into it, and a lock that is not renewed is taken over.
"""

import contextlib
import datetime
import errno
import fcntl
import io
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from transformer.checkpoint import to_json
from transformer.checkpoint.seal import is_local
from transformer.cluster.leaving import before_leaving, end
from transformer.errors import UserError

NAME = "lock.json"
RENEWED = 20.0
"""Seconds between renewals, where the file is the lock."""
STALE = 180.0
"""Seconds after which a lock that is not renewed is free."""
_SETTLE = 2.0
"""Seconds after which a file that two processes wrote at once shows the last one's content, in stores that cannot
create a file exclusively."""
_SEEN = 70.0
"""Seconds after which a shared disk shows a new file everywhere: NFS clients look again after 60."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunLock:
    """The lock on a run's folder. A context manager: taken by `take`, released at the end of the block.

    Args:
      folder: the run's folder.
      report: called with a line when a dead process's lock is taken over.
    """

    def __init__(self, folder: epath.Path, report: Callable[[str], None] = lambda line: None):
        self._folder, self._report = folder, report
        self.record = _own_record()
        """The file's content, for people and other processes."""
        self._held: _Kernels | _Files | None = None
        self._take_back: Callable[[], None] = lambda: None

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *exc: object) -> None:
        self._take_back()
        if self._held is not None:
            self._held.release()

    def check_free(self) -> None:
        """Raises UserError if another process holds the lock; takes nothing, writes nothing."""
        path = self._folder / NAME
        if not path.exists():
            return
        kernels = _Kernels.taken(path, self.record, create=False) if is_local(path) else None
        if kernels is not None:
            kernels.release(remove=False)
        else:
            _Files(path, self.record, self._report).check_free()

    def take(self) -> None:
        """Takes the lock, in a folder that is there.

        Raises:
          UserError: another process has it; the message says which.
        """
        path = self._folder / NAME
        self._held = _Kernels.taken(path, self.record, create=True) if is_local(path) else None
        if self._held is None:
            files = _Files(path, self.record, self._report)
            files.take()
            self._held = files
        self._take_back = before_leaving(self._held.release)

    def seen(self, record: Mapping[str, Any]) -> None:
        """Waits until the folder shows the lock of another process of the job, which wrote `record`.

        Raises:
          UserError: it does not, so the processes' folders are not the same.
        """
        ends = time.monotonic() + _SEEN
        while _read(self._folder / NAME).get("token") != record["token"]:
            if time.monotonic() > ends:
                raise UserError(
                    f"{self._folder} is not the same folder on {record['host']} and on {socket.gethostname()}: "
                    "--workdir must name one that all machines of a job share"
                )
            time.sleep(0.1)

    def is_others(self, record: Mapping[str, Any]) -> bool:
        """Whether another start than that of `record`'s process holds the lock."""
        return _read(self._folder / NAME).get("token", record["token"]) != record["token"]


class _Kernels:
    """A kernel lock that is held."""

    def __init__(self, path: Path, file: io.BufferedRandom):
        self._path, self._file, self._owner = path, file, os.getpid()
        # A forked worker would keep holding the lock after this process is killed.
        os.register_at_fork(after_in_child=self._close)

    @classmethod
    def taken(cls, path: epath.Path, record: Mapping[str, Any], *, create: bool) -> "_Kernels | None":
        """Returns the lock, or None on a disk that has no locks. Raises UserError where another holds it."""
        local = Path(path)
        while True:
            try:
                file = open(os.open(local, os.O_RDWR | (os.O_CREAT if create else 0), 0o666), "r+b")  # noqa: SIM115
            except FileNotFoundError:
                if create:
                    raise
                return None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = _parsed(file.read())
                file.close()
                if isinstance(error, BlockingIOError) or error.errno in (errno.EACCES, errno.EAGAIN):
                    raise _refusal(path, holder) from None
                if error.errno in _NO_LOCKS:
                    return None
                raise
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), local.stat()):
                    break
            file.close()  # its holder removed it meanwhile: the lock is another file's
        lock = cls(local, file)
        if create:
            try:
                file.truncate()
                file.write(to_json(record))
                file.flush()
            except OSError:
                lock.release()
                raise
        return lock

    def release(self, *, remove: bool = True) -> None:
        if self._file.closed or os.getpid() != self._owner:
            return
        if remove:
            self._path.unlink(missing_ok=True)
        self._file.close()

    def _close(self) -> None:
        self._file.close()


class _Files:
    """A lock that is a file, which a thread of its holder renews."""

    def __init__(self, path: epath.Path, record: Mapping[str, Any], report: Callable[[str], None]):
        self._path, self._record, self._report = path, record, report
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="run lock")

    def check_free(self) -> None:
        """Raises UserError if another holds it."""
        holder = _read(self._path)
        if holder and not _is_dead(holder):
            raise _refusal(self._path, holder)

    def take(self) -> None:
        self.check_free()
        holder = _read(self._path)
        if holder:
            self._report(f"{self._path} is taken over from {_name(holder)}, which is gone")
        self._path.unlink(missing_ok=True)
        self._create()
        if holder:
            time.sleep(_SETTLE)  # another process may have taken it over too: the last one has it
            if not self._is_own():
                raise _refusal(self._path, _read(self._path))
        self._thread.start()

    def release(self) -> None:
        if self._released.is_set():
            return
        self._released.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        with contextlib.suppress(OSError):
            if self._is_own():
                self._path.unlink(missing_ok=True)

    def _create(self) -> None:
        """Writes the file, unless another process does so at the same time."""
        try:
            exclusively_created(self._path, self._content())
            return
        except FileExistsError:
            if self._is_own():  # the answer to a first try was lost, and the client tried again
                return
            raise _refusal(self._path, _read(self._path)) from None
        except NotImplementedError:
            self._path.write_bytes(self._content())
        time.sleep(_SETTLE)
        if not self._is_own():
            raise _refusal(self._path, _read(self._path))

    def _renew(self) -> None:
        renewed = time.monotonic()
        while not self._released.wait(RENEWED):
            try:
                holder = _read(self._path)
                if not holder or holder.get("token") == self._record["token"]:
                    self._path.write_bytes(self._content())
                    renewed = time.monotonic()
                    continue
                late = time.monotonic() - renewed
                message = (
                    f"{self._path} was taken over by {_name(holder)}: this process had not renewed it for {late:.0f} s"
                )
            except Exception:  # whatever a store's client raises: the next renewal may succeed
                continue
            end(UserError(message), f"error: {message}", UserError.exit_code)

    def _content(self) -> bytes:
        return to_json({**self._record, "renewed": time.time()})

    def _is_own(self) -> bool:
        return _read(self._path).get("token") == self._record["token"]


def exclusively_created(path: epath.Path, content: bytes) -> None:
    """Writes a new file, in one step at which only one of several processes can succeed.

    Raises:
      FileExistsError: the file exists.
      NotImplementedError: this store cannot do so.
    """
    if is_local(path):
        with open(path, "xb") as file:
            file.write(content)
        return
    import fsspec

    try:
        store, name = fsspec.core.url_to_fs(str(path))
        store.pipe_file(name, content, mode="create")  # Google's ifGenerationMatch=0, S3's If-None-Match
    except (ImportError, TypeError, ValueError) as error:
        raise NotImplementedError(str(error)) from error
    except OSError as error:
        if path.exists():  # each store's client reports it in its own way
            raise FileExistsError(str(path)) from error
        raise


def _own_record() -> dict[str, Any]:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": since,
        "machine": _machine(),
        "token": secrets.token_hex(8),
    }


def _machine() -> str:
    """Returns an id of this machine since its last boot, and of its process namespace; empty if there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether a holder is known to be gone, or has not renewed its lock for too long."""
    pid = holder.get("pid")
    if _machine() and holder.get("machine") == _machine() and isinstance(pid, int) and pid != os.getpid():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass
    renewed = holder.get("renewed")
    return not isinstance(renewed, int | float) or time.time() - renewed > STALE


def _read(path: epath.Path) -> dict[str, Any]:
    """Returns the record of a lock's holder; empty if there is none."""
    try:
        return _parsed(path.read_bytes())
    except FileNotFoundError:
        return {}


def _parsed(content: bytes) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        record = json.loads(content)
        if isinstance(record, dict):
            return record
    return {}


def _name(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "another process"
    return f"process {holder['pid']} on {holder.get('host')}, since {holder.get('since')}"


def _refusal(path: epath.Path, holder: dict[str, Any]) -> UserError:
    waits = ""
    if "renewed" in holder:
        waits = f" (if that one is dead, its lock is free {STALE:.0f} s after its last sign of life)"
    return UserError(
        f"{path.parent}: this run is going on already, in {_name(holder)}: wait for its end, or give another "
        f"--workdir{waits}"
    )
