"""Failures on record: `RUN/failure.json` says why the newest start of a run ended, and `RUN/stacks/` where it was.

The first process of a job that fails writes it; the next start says what it holds, and removes it.
"""

import contextlib
import datetime
import faulthandler
import json
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from etils import epath

from transformer.errors import Interrupted

NAME, STACKS = "failure.json", "stacks"
_FIELDS = ("message", "exit_code", "process", "host", "phase", "step", "traceback")
_SIGNALS = 128
"""Exit codes from here on are a person's or a scheduler's doing."""

_folder: epath.Path | None = None
_is_others: Callable[[], bool] = lambda: False  # noqa: E731
_running = False


@contextlib.contextmanager
def none_yet() -> Iterator[None]:
    """A context of a start of a run; the failures in it go on record once the run has begun (`into`)."""
    global _running, _folder
    _running, _folder = True, None
    try:
        yield
    except BaseException as error:
        error.ended_run = True  # pyright: ignore[reportAttributeAccessIssue]
        raise
    finally:
        _running = False


def into(folder: epath.Path, is_others: Callable[[], bool]) -> None:
    """Makes `folder` the place of this start's failures.

    Args:
      folder: the run's.
      is_others: whether another start has the folder by now; this one, which was stopped meanwhile, is not to write.
    """
    global _folder, _is_others
    _folder, _is_others = folder, is_others


def taken_from(folder: epath.Path) -> str | None:
    """Removes a run's record of a failure; returns it as a line, or None if there is none."""
    path = folder / NAME
    if not path.exists():
        return None
    record: Any = None
    with contextlib.suppress(ValueError):
        record = json.loads(path.read_text())
    path.unlink(missing_ok=True)
    if not isinstance(record, dict):
        return None
    step = "" if record.get("step") is None else f" (update {record['step']})"
    host = "" if record.get("host") is None else f" on {record['host']}"
    where = f"{host} in phase {record.get('phase')}{step}, {record.get('time')}"
    return f"the start before failed{where}: {record.get('message')}"


def write(failure: Mapping[str, Any], *, error: BaseException | None = None) -> dict[str, Any] | None:
    """Writes a failure into the run folder, if the run has begun and no other failure is there.

    Returns the failure that is on record then, another process's where that came first; None where there is none.

    Args:
      failure: `message`, `exit_code`, `process`, `host`, `phase`, `step`, of a bug its `traceback`.
      error: what ended this process, if it was raised; that of another command than the run's is not the run's failure.
    """
    folder, code = _folder, failure["exit_code"]
    is_stopped = isinstance(error, KeyboardInterrupt) or code == Interrupted.exit_code or code >= _SIGNALS
    if folder is None or is_stopped:
        return None
    if (error is not None and not _running and not hasattr(error, "ended_run")) or _is_others():
        return None
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {"time": time} | {name: failure.get(name) for name in _FIELDS}
    _create(folder / NAME, (json.dumps(record, indent=2) + "\n").encode())
    try:
        on_record = json.loads((folder / NAME).read_text())
    except (OSError, ValueError):
        return None
    return dict(failure) | on_record if isinstance(on_record, dict) else None


def write_stacks(process: int, line: str) -> str:
    """Writes the stacks of all threads into the run folder, before the run began to the standard error.

    Args:
      process: this one's index.
      line: what stands above them.

    Returns:
      Where those of all processes are, for people.
    """
    if _folder is None or "://" in os.fspath(_folder):  # an object store takes no file descriptor
        _dump(sys.__stderr__ or sys.stderr, line)
        return "in the output of each process"
    path = Path(_folder) / STACKS / f"process-{process}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        _dump(file, line)
    return str(path.parent)


def _dump(file: Any, line: str) -> None:
    names = ", ".join(f"0x{thread.ident:016x} {thread.name}" for thread in threading.enumerate() if thread.ident)
    print(f"{line}\nthreads: {names}\n", file=file, flush=True)
    faulthandler.dump_traceback(file, all_threads=True)


def _create(path: epath.Path, content: bytes) -> None:
    """Writes a file that appears whole, unless it is there: the first failure is the cause of the others."""
    if "://" in os.fspath(path):
        if not path.exists():
            path.write_bytes(content)
        return
    local = Path(path)
    part = local.with_name(f".{local.name}.{secrets.token_hex(4)}")
    try:
        part.write_bytes(content)
        with contextlib.suppress(FileExistsError):
            os.link(part, local)
    finally:
        part.unlink(missing_ok=True)
