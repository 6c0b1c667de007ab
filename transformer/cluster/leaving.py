"""Leaving together: when one process of a job fails, the others must not wait for it.

A process that fails writes why into JAX's coordination service, and leaves. A thread of each process looks there now
and then, and ends its process with the same line and exit code: its main thread may be in a collective that can never
end. The thread also notices a process that was killed and could write nothing (`presence`).
"""

import atexit
import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import jax

from transformer.cluster import deadlines, failures, phases
from transformer.cluster.agreement import (
    alone,
    coordination,
    describe,
    own_index,
    phase_name,
    process_count,
    process_name,
    standing_of,
    wait_for_others,
)
from transformer.cluster.presence import Peer, Peers
from transformer.cluster.standing import update
from transformer.errors import Late, UserError

_KEY, _PREFIX = "transformer/failed", "error: "
_POLL = 0.5
"""Seconds between looks at the service."""
_GRACE = 3.0
"""Seconds that a process gets to end by itself once another has failed: all may have the same error."""
_FAREWELL, _SHORT_FAREWELL = 15.0, 3.0
"""Seconds that a leaving process waits until the others know, since the leading one takes the service with it; the
short wait is for failures that grant no grace."""

_TELL = 3.0
"""Seconds that the service gets to take a failure; that of a leading process that is stopped answers nothing."""
_DISK = 2.0
"""Seconds that a disk gets for each of the last acts."""
_ENDED, _WATCHDOG = "transformer/ended", 15.0

_ending = threading.Lock()
_last_acts: list[Callable[[], None]] = []
_end_acts: list[Callable[[], None]] = []


def follow() -> None:
    """Makes this process end when another one fails or dies, from now to its orderly end. Alone, it does nothing."""
    if alone():
        return
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(done,), daemon=True, name="leaving")
    thread.start()

    def stop() -> None:
        # All come to their end before anyone stops watching: one may still fail on its way there.
        _await_all()
        for act in _end_acts:
            act()
        done.set()
        thread.join()

    atexit.register(stop)  # before JAX's own, which was registered earlier and closes the service


def when_all_ended(act: Callable[[], None]) -> None:
    """Registers `act` to be called at an orderly end, once all processes of the job have come to theirs."""
    _end_acts.append(act)


def leave(error: BaseException, line: str, exit_code: int, *, at_once: bool = False) -> None:
    """Tells the other processes why this one fails, prints `line`, and ends this process with `exit_code`.

    An orderly end would wait for the others at JAX's shutdown, where they never come. Where another failed first, this
    process ends with that one's line and code. Returns where there are no others. The run's folder gets it on record.

    Args:
      at_once: whether the others get no time to end by themselves.
    """
    # People read the line, unless it is a traceback.
    is_line, failure = line.startswith(_PREFIX), describe(error) | {"exit_code": exit_code, "at_once": at_once}
    if is_line:
        failure["message"] = line.removeprefix(_PREFIX)
    if not alone() and not isinstance(error, UserError):
        time.sleep(_GRACE)  # a collective also fails where another process is gone, and the thread knows which
    first = failure if alone() else deadlines.bounded(_TELL, lambda: _tell(failure))
    if first is None or first == failure:
        deadlines.bounded(_DISK, lambda: failures.write(failure, error=error))
    if not alone():
        known = first or failure
        _end(line if known == failure else _line(known), known["exit_code"], _farewell(known) if first else 0.0)


def end(error: BaseException, line: str, exit_code: int, *, at_once: bool = False) -> NoReturn:
    """Ends this process from any of its threads, and the others of its job with it; see `leave`."""
    leave(error, line, exit_code, at_once=at_once)
    _end(line, exit_code)


def end_all(failure: dict[str, Any], *, is_told: bool = True) -> NoReturn:
    """Ends this process, and the others of its job with it, by a failure that a thread found: without grace.

    Args:
      failure: as `describe` returns it, and `at_once`.
      is_told: whether the others are told; not where the service does not answer.
    """
    first = deadlines.bounded(_TELL, lambda: _tell(failure)) if is_told and not alone() else None
    known = first or failure
    if first is None or first == failure:
        # Where the service answers nobody, all find it silent at once: the run's folder says who was first.
        known = deadlines.bounded(_DISK, lambda: failures.write(failure)) or failure
    _end(_line(known), known["exit_code"], _farewell(known) if first else 0.0)


def before_leaving(act: Callable[[], None]) -> Callable[[], None]:
    """Registers `act` to be called before this process ends out of order; returns a function that takes it back."""
    _last_acts.append(act)
    return lambda: _last_acts.remove(act)


def _tell(failure: dict[str, Any]) -> dict[str, Any]:
    """Returns the failure that all processes end with: this one, or an earlier one of another process."""
    client = coordination()
    try:
        client.key_value_set(_KEY, json.dumps(failure))
    except jax.errors.JaxRuntimeError:
        with contextlib.suppress(jax.errors.JaxRuntimeError, ValueError):  # the service is gone
            return json.loads(client.key_value_try_get(_KEY))
    return failure


def _watch(done: threading.Event) -> None:
    peers = Peers()
    abort = _Abort(peers) if own_index() > 0 else contextlib.nullcontext()
    with abort:
        while not done.is_set():
            gone = peers.missed(_POLL)
            failure = _failure()
            if failure is None and gone is not None:
                end_all(_of_gone(gone))
            if failure is not None:
                if not failure["at_once"]:
                    done.wait(_GRACE)
                _end(_line(failure), failure["exit_code"], _farewell(failure))
    peers.close()


def _await_all() -> None:
    """Waits until all processes have come to their end; ends this one with the name of one that does not come."""
    # A watchdog, where there is one, says more and so comes first.
    client, seconds = coordination(), (deadlines.limit("exit") or deadlines.NO_DEADLINE) + _WATCHDOG
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service is gone, and its process named by `_watch`
        client.key_value_set(f"{_ENDED}/{own_index()}", "")
        try:
            with wait_for_others("the end"):
                client.wait_at_barrier(_ENDED, int(1000 * seconds))
        except jax.errors.JaxRuntimeError as error:
            there = {key.rpartition("/")[2] for key, _ in client.key_value_dir_get(_ENDED)}
            late = [index for index in range(process_count()) if str(index) not in there]
            if late and "DEADLINE_EXCEEDED" in str(error):
                standing = standing_of(late[0])
                name = standing.name_and_phase if standing else process_name(late[0])
                missing = Late(f"{name} did not come to its end within {seconds:.0f} s")
                place = {"process": late[0], "host": standing and standing.host, "phase": "exit"}
                end_all(describe(missing) | place | {"at_once": True})


def _failure() -> dict[str, Any] | None:
    """Returns why another process failed, or None."""
    try:
        return json.loads(coordination().key_value_try_get(_KEY))
    except jax.errors.JaxRuntimeError:
        return None  # none failed; a service that is gone ends the process by itself


def _of_gone(gone: Peer) -> dict[str, Any]:
    """Returns the failure of a process that could tell none: the phase is that of this one, which waits for it."""
    place = {"process": gone.process, "host": gone.host, "phase": phases.current().name, "step": update()}
    message = (
        f"{gone.name} is gone, in {phase_name(place)}: it was killed or it crashed; the same command goes on from the "
        "newest checkpoint"
    )
    return {"message": message, "exit_code": 1, "at_once": True} | place


def _line(failure: dict[str, Any]) -> str:
    return f"{_PREFIX}{failure['message']}"


def _farewell(failure: dict[str, Any]) -> float:
    return _SHORT_FAREWELL if failure["at_once"] else _FAREWELL


def _end(line: str, exit_code: int, farewell: float = 0.0) -> NoReturn:
    _ending.acquire()  # never released: whichever thread comes first ends the process
    for act in _last_acts:
        deadlines.bounded(_DISK, act)
    print(f"\n{line}", file=sys.stderr, flush=True)  # below a progress bar
    sys.stdout.flush()
    if farewell:
        milliseconds = int(1000 * farewell)
        deadlines.bounded(farewell + 1, lambda: coordination().wait_at_barrier("transformer/leaving", milliseconds))
        time.sleep(0.2 if own_index() == 0 else 0.0)  # the service goes last
    os._exit(exit_code)


class _Abort:
    """A context in which JAX's abort, when the leading process is gone, becomes the line and exit code of the others.

    JAX aborts a process the moment that the service is gone, often before the watching thread wakes up.
    """

    def __init__(self, peers: Peers):
        self._peers, self._libc = peers, ctypes.CDLL(None)
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._handle)

    def __enter__(self) -> None:
        self._set(self._handler)

    def __exit__(self, *exc: object) -> None:
        self._set(None)

    def _set(self, handler: Any) -> None:
        set_handler = self._libc.signal
        set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        set_handler(signal.SIGABRT, handler if handler is None else ctypes.cast(handler, ctypes.c_void_p))

    def _handle(self, number: int) -> None:
        if _ending.locked():
            time.sleep(2 * _FAREWELL)  # another thread is about to end this process
        gone = self._peers.lead_missed(1.0)
        if gone is None:
            self._set(None)  # another kind of abort: it goes on
            return
        failure = _of_gone(gone)
        with contextlib.suppress(OSError):
            os.write(2, f"\n{_line(failure)}\n".encode())
            failures.write(failure)
        os._exit(failure["exit_code"])
