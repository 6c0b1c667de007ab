"""Signals as wrappers and terminals send them: twice.

`timeout` sends its signal to the process and then to its group; Ctrl-C reaches a wrapper, which passes it on, and the
process itself. Both mean one thing.
"""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

PAIR = 2.0
"""Seconds after a signal in which another one, of whatever kind, is the same request again."""


def ignored_until(end: float, handler: Any) -> Callable[[int, FrameType | None], None]:
    """Returns a handler that ignores its signal until `end` and then makes `handler` the signal's handler again.

    Args:
      end: seconds of `time.monotonic`.
      handler: as `signal.signal` takes it.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if time.monotonic() >= end:
            signal.signal(number, handler)
            signal.raise_signal(number)

    return handle


def end_at_sigterm_as_first_process() -> None:
    """Makes SIGTERM end the first process of a container, with exit code 15, until a handler takes the signal over.

    The kernel keeps from process 1 every signal without a handler, so a pod that is deleted while it starts would live
    on until it is killed. The handler is C's own `_exit`: Python's would wait for the end of a call into JAX.
    """
    if os.getpid() != 1 or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(signal.SIGTERM, ctypes.cast(libc._exit, ctypes.c_void_p))
