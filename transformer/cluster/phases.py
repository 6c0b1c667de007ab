"""Phases: what this process is doing now, of the few things that the time of a run is made of.

There is one phase at a time, that of the main thread. Deadlines ask how long it has lasted (`current`), and who counts
where the time goes is told of each that ends (`listen`).
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar, get_args

T = TypeVar("T")

Phase = Literal["start", "restore", "compile", "data", "step", "save", "evaluation", "exit"]
PHASES: tuple[Phase, ...] = get_args(Phase)
Listener = Callable[[Phase, float, float], None]
"""Takes a phase, and when it began and ended, in seconds of `time.monotonic`."""


@dataclasses.dataclass(frozen=True)
class Current:
    """The phase of now."""

    name: Phase
    since: float
    """Seconds of `time.monotonic`. A phase that another interrupted begins anew."""


_change = threading.Lock()
_current = Current("start", time.monotonic())
_listeners: list[Listener] = []


def current() -> Current:
    """Returns the phase of now; any thread may call it."""
    return _current


def enter(name: Phase) -> Phase:
    """Ends the phase of now and begins another, which may have the same name; returns the one that ended."""
    global _current
    with _change:
        ended, _current = _current, Current(name, time.monotonic())
        listeners = tuple(_listeners)
    for listener in listeners:
        listener(ended.name, ended.since, _current.since)
    return ended.name


@contextlib.contextmanager
def phase(name: Phase) -> Iterator[None]:
    """A context of a phase within another, which it interrupts."""
    outer = enter(name)
    try:
        yield
    except BaseException as error:
        if not hasattr(error, "run_phase"):
            error.run_phase = name  # pyright: ignore[reportAttributeAccessIssue]
        raise
    finally:
        enter(outer)


def phase_of(error: BaseException) -> Phase:
    """Returns the innermost phase that an error was raised in."""
    return getattr(error, "run_phase", current().name)


def each(name: Phase, items: Iterable[T]) -> Iterator[T]:
    """Yields the items; the phase begins anew with each, as that is progress."""
    for item in items:
        enter(name)
        yield item


def listen(listener: Listener) -> Callable[[], None]:
    """Calls `listener` in the main thread with every phase that ends from now on; returns a function that stops it."""
    with _change:
        _listeners.append(listener)

    def stop() -> None:
        with _change:
            _listeners.remove(listener)

    return stop
