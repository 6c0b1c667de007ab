"""Deadlines of this process: how long the phase of now may last, and whether it has."""

import contextlib
import dataclasses
import gc
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TypeVar

from transformer.cluster.config import Deadlines
from transformer.cluster.phases import Current, Phase, current, phase

T = TypeVar("T")

_SIGN, _SIGNS = 5.0, 4
"""Seconds between signs of life, and how many there are at least before silence counts."""
NO_DEADLINE = 7 * 24 * 3600.0
"""Seconds that stand for no deadline, where a library wants a number."""
_DEBUGGERS = re.compile(r"(/(bdb|pdb|ipdb)\.py|/(pydevd|debugpy|_pydevd_bundle)/)")
"""Files of the frames of a debugger that waits for a person."""

_frames_lock = threading.Lock()
_deadlines = Deadlines()
_allowed: str | None = None
_stopped = (0.0, 0.0)
"""Beginning of the phase in which this process was stopped last, and for how many seconds."""


@dataclasses.dataclass(frozen=True)
class Missed:
    """A deadline that passed."""

    phase: Phase
    seconds: float
    """How long the phase has lasted."""
    limit: float
    flag: str
    """The command line's name of the deadline."""


def flag(name: str) -> str:
    """Returns the command line's name of a deadline, by its field's name."""
    return f"--cluster.deadlines.{name}"


def within_start(seconds: float) -> str:
    """Returns the words of a line about what did not happen in time while the processes of a job join."""
    return f"within {seconds:g} s in phase start ({flag('start')})"


def use(deadlines: Deadlines) -> None:
    """Makes `deadlines` those of this process."""
    global _deadlines
    _deadlines = deadlines


@contextlib.contextmanager
def allowing(name: str) -> Iterator[None]:
    """A context of work within a phase that has a deadline of its own, such as "prepare"; the phase begins anew.

    Args:
      name: a field of `Deadlines`.
    """
    global _allowed
    with phase(current().name):
        before, _allowed = _allowed, name
        try:
            yield
        finally:
            _allowed = before


def between_signs() -> float:
    """Returns the seconds between a process's signs of life: several come within the time that counts as silence."""
    return min(_SIGN, (silence() or math.inf) / _SIGNS)


def silence() -> float | None:
    """Returns the seconds after which a process without a sign of life is lost; None: never."""
    return _deadlines.silence if _deadlines.enabled else None


def limit(name: str) -> float | None:
    """Returns the seconds of a deadline, by its field's name; None if it has none."""
    return getattr(_deadlines, name) if _deadlines.enabled else None


def current_limit() -> float | None:
    """Returns the seconds that the phase of now may last; None: for ever."""
    return limit(_allowed or current().name)


def patience() -> float:
    """Returns the seconds that the calling thread waits for other processes: a background thread saves."""
    name = "save" if threading.current_thread() is not threading.main_thread() else _allowed or current().name
    return limit(name) or NO_DEADLINE


def missed() -> Missed | None:
    """Returns the deadline that the phase of now has passed, or None."""
    now, name = current(), _allowed or current().name
    seconds, most = elapsed(now), limit(name)
    if most is None or seconds < most:
        return None
    return Missed(now.name, seconds, most, flag(name))


def elapsed(now: Current) -> float:
    """Returns the seconds that a phase has lasted, without those in which the whole process was stopped."""
    of, seconds = _stopped
    return time.monotonic() - now.since - (seconds if of == now.since else 0.0)


def stopped(seconds: float) -> None:
    """Takes note that this process was stopped for so long, as by Ctrl-Z: a person or a scheduler wanted that."""
    global _stopped
    now, (of, before) = current(), _stopped
    seconds = min(seconds, time.monotonic() - now.since)
    _stopped = (now.since, seconds + (before if of == now.since else 0.0))


def debugged() -> bool:
    """Whether a debugger is attached to this process, or waits in its main thread."""
    if sys.gettrace() is not None or not {"pydevd", "debugpy"}.isdisjoint(sys.modules):
        return True
    with contextlib.suppress(OSError):  # no /proc
        traced = re.search(r"^TracerPid:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)
        if traced and int(traced[1]):
            return True
    return any(_DEBUGGERS.search(frame.f_code.co_filename) for frame in main_frames())


def main_frames() -> list[FrameType]:
    """Returns the frames of the main thread, the innermost first."""
    # A frame object is made of each running frame, and making one may collect garbage: a finalizer that gives up
    # Python's lock there lets the main thread return from that very frame, and the process crashes (cpython 106883).
    with _frames_lock:
        collects = gc.isenabled()
        gc.disable()
        try:
            frames, frame = [], sys._current_frames().get(threading.main_thread().ident or 0)
            while frame is not None:
                frames.append(frame)
                frame = frame.f_back
            return frames
        finally:
            if collects:
                gc.enable()


def bounded(seconds: float, action: Callable[[], T]) -> T | None:
    """Returns `action()`; None if that takes longer than so many seconds, or fails.

    A disk or a service that hangs holds the thread that asks for ever, and so this is asked by one that nobody needs.
    """
    results: list[T] = []

    def act() -> None:
        with contextlib.suppress(Exception):
            results.append(action())

    thread = threading.Thread(target=act, daemon=True, name="bounded")
    with contextlib.suppress(RuntimeError):  # the interpreter is ending, and starts no thread any more
        thread.start()
        thread.join(seconds)
    return results[0] if results else None
