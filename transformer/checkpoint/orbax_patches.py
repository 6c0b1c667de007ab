"""All that leans on Orbax's insides, or changes the process that Orbax runs in: a new version is checked against this.

| what             | for what                                          | without it                                 |
| ---------------- | ------------------------------------------------- | ------------------------------------------ |
| `quiet_log`      | a failure is said once, by this program           | Orbax's threads log it, with tracebacks    |
| `quiet_writes`   | a failed save ends in one line                    | a traceback for each abandoned write       |
| `quiet_reads`    | a failed restore ends in one line                 | a traceback for each abandoned read        |
| `pieces_kept`    | restoring onto another mesh reads each byte once  | stored pieces are read once a device       |
| `next_operation` | a process that failed calls the barriers at which | the others wait as long as a save may take |
| `BARRIERS`       | the others wait, named by the operation's number  | (two hours)                                |
| `join_threads`   | what a failed save left is removed for good       | a late write brings the folder back        |

Orbax gives up at the first bad read or write and closes its event loop; each of the others then ends with "Event loop
is closed", at any time later, in Python's hook for what nobody can catch.
"""

import contextlib
import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import jax

BARRIERS = (
    "[op={0}] next_awaitable_signal_operation_id:sync",
    "[op={0}] save_checkpointables_async:maybe_overwrite_existing:pre",
    "[op={0}] save_checkpointables_async:maybe_overwrite_existing:post",
    "[op={0}] create_directory:post",
    *(
        f"[op={{0}}.{tree}] save_and_finalize_{{0}}.{tree}_{phase}_complete"
        for tree in ("params", "opt_state")
        for phase in ("commit", "finalize")
    ),
    "[op={0}] save_checkpointables_async:finalize",
    "[op={0}] _load_impl",
)
"""Where Orbax has the processes wait for each other, by the operation's number."""


def next_operation() -> int:
    """Returns the number that Orbax's next save or load will have, the same on every process."""
    return int(_operations().get_current_operation_id()) + 1


def begin_operation() -> None:
    """Counts an operation that failed here before Orbax counted it."""
    _operations().next_operation_id()


def join_threads(seconds: float) -> None:
    """Returns once none of Orbax's threads runs, or after so long: it does not wait for all that it began."""
    ends = time.monotonic() + seconds
    for thread in threading.enumerate():
        if type(thread).__module__.partition(".")[0] == "orbax":
            threading.Thread.join(thread, max(ends - time.monotonic(), 0.0))


def quiet_log() -> None:
    """Drops what Orbax logs, from each of its threads: what it also raises."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def quiet_writes() -> None:
    """Drops, from now on, what abandoned writes and reads of Orbax print, and what asyncio logs of them."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if not getattr(sys.unraisablehook, "drops_closed_loops", False):
        _drop_closed_loops()
        _ignore_unawaited()


@contextlib.contextmanager
def quiet_reads() -> Iterator[None]:
    """Drops what abandoned reads print, from before they begin; after a failure for good, for they end at any time."""
    log, report = logging.getLogger("asyncio"), sys.unraisablehook
    level = log.level
    log.setLevel(logging.CRITICAL)
    _drop_closed_loops()
    try:
        yield
    except Exception:
        _ignore_unawaited()
        raise
    log.setLevel(level)
    sys.unraisablehook = report


@contextlib.contextmanager
def pieces_kept(limit: int) -> Iterator[None]:
    """Keeps up to `limit` bytes of what was read until all of this host's devices have their parts.

    A mesh that cuts another axis than the saved one wants a part of each stored piece on every device. TensorStore
    joins reads of a piece that meet, and reads it anew for one that comes later, unless its cache holds it. Orbax has
    no option for this cache: the name is private, and where it is gone, bytes are read more than once.
    """
    from orbax.checkpoint._src.serialization import tensorstore_utils

    if jax.local_device_count() == 1:
        yield
        return
    context = vars(tensorstore_utils).get("_DEFAULT_OCDBT_TS_CONTEXT", {})
    context["cache_pool"] = {"total_bytes_limit": limit}
    try:
        yield
    finally:
        del context["cache_pool"]


def _drop_closed_loops() -> None:
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            report(unraisable)

    hook.drops_closed_loops = True  # pyright: ignore[reportFunctionMemberAccess]
    sys.unraisablehook = hook


def _ignore_unawaited() -> None:
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def _operations() -> Any:
    """Returns what counts Orbax's operations, whose place is private."""
    from orbax.checkpoint._src.futures.synchronization import OperationIdGenerator

    return OperationIdGenerator
