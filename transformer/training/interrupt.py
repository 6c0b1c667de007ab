"""Signals of a scheduler, or Ctrl-C: noticed at once, obeyed at the next place where nothing is lost.

Python runs a signal's handler between two of its own instructions, so a compilation of minutes would delay it. Here a
thread is woken by the signal itself. It prints what will happen. Signals come in pairs (`transformer.signals`), so only
one that comes two seconds after the first or later leaves at once.

Several processes must all stop after the same step, whichever of them gets the signal: they agree on it through JAX's
preemption service, which has its own handler for SIGTERM. Where nothing is unsaved, a process that leaves takes the
others along.
"""

import contextlib
import ctypes
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Literal, NoReturn, TypeVar

import jax

from transformer.cluster.agreement import exchange
from transformer.cluster.leaving import end
from transformer.errors import Interrupted, UserError
from transformer.signals import PAIR, ignored_until

T = TypeVar("T")

_PATIENCE = 0.5
"""Seconds that Python's handler, which waits for a compilation, gets to leave in order before the thread does."""
_NOTHING_UNSAVED = "; nothing was unsaved"


Mode = Literal["busy", "free", "compiling", "waiting"]


class Now(Exception):
    """Stops the main thread at a place where nothing is lost."""


class StopRequest:
    """A request to stop the run, if there is one."""

    def __init__(self, resume: str = "") -> None:
        self.signal: str | None = None
        self._resume = resume
        self._mode: Mode = "busy"
        self._asked, self._asked_at = threading.Event(), 0.0
        self._has_raised = False
        self._places, self._agreed = 0, False
        self._notify_jax = _jax_notice()

    def check(self) -> None:
        """Raises Now if this is the place to stop, which is the same on every process.

        All processes must call it in the same places. The place to stop may come some calls after the signal.
        """
        if jax.process_count() == 1:
            self._agreed = self.signal is not None
        else:
            from jax.experimental import multihost_utils

            self._places += 1
            if not self._agreed and multihost_utils.reached_preemption_sync_point(self._places):
                self._agreed = True
                # A process without a signal ends with the same line. JAX may have had a SIGTERM before this handler.
                signals = [name for name in exchange("which signal came", self.signal) if name is not None]
                self.signal = signals[0] if signals else signal.SIGTERM.name
        if self._agreed:
            raise Now

    def each(self, items: Iterable[T]) -> Iterator[T]:
        """Yields the items, each of them a place to stop."""
        for item in items:
            self.check()
            yield item

    @property
    def pair_end(self) -> float:
        """The instant of `time.monotonic` from which another signal is a second request to stop."""
        if self.signal is None:
            return 0.0
        # A request that came through another process may come to this one too.
        return PAIR + (self._asked_at if self._asked.is_set() else time.monotonic())

    def wait(self, seconds: float) -> bool:
        """Waits for a signal, at most `seconds`; returns whether there was one."""
        return self._asked.wait(seconds)

    def interrupted(self, how: str) -> Interrupted:
        """Returns the error that a run ends with which was stopped; the rest of its line says `how`."""
        return Interrupted(f"{self.signal}: stopped{how}. {self._resume}")

    @contextlib.contextmanager
    def free(self) -> Iterator[None]:
        """A context in which nothing is unsaved: a signal leaves from anywhere, also from a compilation."""
        with self._in("free"):
            yield

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """A context of the first update, which is compiled: a signal leaves if that takes long, else saves after it."""
        if self.signal is not None:
            self._leave_if_it_takes_long()
        with self._in("compiling"):
            yield

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A context in which the main thread waits for something dispensable: a signal ends the wait with `Now`.

        One of several processes must wait for its batch all the same, since the others wait for it in the step.
        """
        with self._in("waiting" if jax.process_count() == 1 else "busy"):
            yield

    @contextlib.contextmanager
    def _in(self, mode: Mode) -> Iterator[None]:
        before, self._mode = self._mode, mode
        try:
            if self.signal is not None:
                self._leave()
            yield
        finally:
            self._mode = before

    def _leave(self) -> None:
        if self._mode == "free":
            if jax.process_count() > 1:  # at its end JAX would wait for the others, which wait for this one
                self._leave_at_once()
            self._has_raised = True
            raise self.interrupted(_NOTHING_UNSAVED)
        if self._mode == "waiting":
            self._has_raised = True
            raise Now

    def _handle(self, number: int, _: object) -> None:
        """Python's signal handler, which runs in the main thread between Python instructions."""
        self._name(signal.Signals(number))
        if not self._has_raised:  # else a pair's second signal would raise in what the first one's exception unwinds
            self._leave()

    def _watch(self, woken: socket.socket, numbers: Collection[int]) -> None:
        """Watches for signals in the thread, until the socket is closed."""
        while received := woken.recv(64):
            for number in received:
                if number in numbers:
                    self._notice(signal.Signals(number))

    def _notice(self, received: signal.Signals) -> None:
        if self._asked.is_set():
            if time.monotonic() < self.pair_end:
                return
            line = f"{received.name} again: leaving at once; what was saved before is whole"
            end(UserError(line), f"error: {line}", 128 + received, at_once=True)
        self._name(received)
        self._asked_at = time.monotonic()
        self._asked.set()
        if self._notify_jax is not None:
            self._notify_jax()
        _print_below_bar(f"{self.signal}: stopping; another signal after {PAIR:.0f} seconds leaves at once")
        self._leave_if_it_takes_long()

    def _name(self, received: signal.Signals) -> None:
        if self.signal is None:  # a pair may be of two kinds: the first one's name is told
            self.signal = received.name

    def _leave_if_it_takes_long(self) -> None:
        """Leaves in the main thread's stead, if it may leave but is in a compilation."""

        def leave() -> None:
            if self._mode in ("free", "compiling"):
                self._leave_at_once()

        threading.Timer(_PATIENCE, leave).start()

    def _leave_at_once(self) -> NoReturn:
        stop = self.interrupted(_NOTHING_UNSAVED)
        end(stop, f"error: {stop}", stop.exit_code, at_once=True)


@contextlib.contextmanager
def stop_on_signal(*more: int, resume: str = "") -> Iterator[StopRequest]:
    """Notes the first SIGINT, SIGTERM or further signal; one that comes `PAIR` seconds later or after ends the process.

    A pair's second signal is ignored even after the block, where the process is on its way out.

    Args:
      more: numbers of further signals that mean the same.
      resume: a line that tells people how to go on.
    """
    request = StopRequest(resume)
    numbers = (signal.SIGINT, signal.SIGTERM, *more)
    receive, send = socket.socketpair()
    send.setblocking(False)
    before = {number: signal.signal(number, request._handle) for number in numbers}
    woken_before = signal.set_wakeup_fd(send.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=request._watch, args=(receive, numbers), daemon=True, name="signals")
    thread.start()
    try:
        yield request
    finally:
        signal.set_wakeup_fd(woken_before)
        pair_end = request.pair_end
        for number, handler in before.items():
            handler = signal.SIG_DFL if handler is None else handler
            signal.signal(number, handler if time.monotonic() >= pair_end else ignored_until(pair_end, handler))
        send.close()  # which ends the thread
        thread.join()
        receive.close()


def _jax_notice() -> Callable[[], None] | None:
    """Returns the function that JAX's preemption service runs on SIGTERM; None without that service.

    The service learns of signals by the handler that it installed in C, which Python is about to replace.
    """
    if jax.process_count() == 1:
        return None
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    address = set_handler(signal.SIGTERM, None)
    if not address:
        return None
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(address)
    return lambda: handler(signal.SIGTERM)


def _print_below_bar(line: str) -> None:
    """Prints below the progress bar."""
    print(f"\n{line}", file=sys.stderr, flush=True)
