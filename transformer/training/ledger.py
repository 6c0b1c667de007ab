"""The ledger of a start: where its time goes, written down now and then, so that a kill loses a few seconds of it.

`goodput.py` says what is made of it. A start writes one file of its own, replaced whole each time: an object store can
do that too, and a start that still ends while the next one begins does not harm it.
"""

import atexit
import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from etils import epath

from transformer.checkpoint import write_atomically
from transformer.checkpoint.seal import is_local
from transformer.cluster import phases
from transformer.cluster.agreement import own_index
from transformer.cluster.phases import PHASES, Phase
from transformer.training import goodput
from transformer.training.device_clock import DeviceClock
from transformer.training.goodput import Start

EVERY, EVERY_REMOTE = 2.0, 30.0
"""Seconds between two writes, to a disk and to an object store; what begins beside steps and data, or ends, is written
down at once."""
_MOST_SAVES = 1024
"""Number of saves that a start remembers; of older ones it remembers fewer."""
_PATIENCE = 5.0
"""Seconds to wait for a write that does not end."""
_COMPILED = "/jax/core/compile/backend_compile_duration"
"""JAX's event of a compilation, or of reading one from the cache, wherever it happens."""


class Ledger:
    """The ledger of this start. A context manager, in the main thread.

    Every second since it began belongs to one phase; where the devices were still computing a step while their host
    waited for a batch, to `step`; and where JAX compiled, to `compile`.

    Args:
      whole_process: whether the process is there for this run alone. Then the start lasts as long as the process does,
        from before its imports to its end; else as long as the context does.
    """

    def __init__(self, *, whole_process: bool = False):
        self._whole_process = whole_process
        self._until = time.monotonic() - (process_age() if whole_process else 0.0)
        self._began = time.time() - (time.monotonic() - self._until)
        self._seconds: dict[str, float] = dict.fromkeys(PHASES, 0.0)
        self._phase: Phase = phases.current().name
        self._compiled = 0.0
        self._saves: list[tuple[int, float]] = []
        self._clock: DeviceClock | None = None
        self._first: int | None = None
        self._lock, self._thread_id = threading.Lock(), threading.get_ident()
        self._book: _Book | None = None
        self._earlier: Sequence[Start] = ()
        self._about: dict[str, Any] = {"number": 1}
        self._ended = False
        self._closers = contextlib.ExitStack()

    def __enter__(self) -> "Ledger":
        self._closers.callback(phases.listen(self._phase_ended))
        jax.monitoring.register_event_duration_secs_listener(self._event)
        self._closers.callback(jax.monitoring.unregister_event_duration_listener, self._event)
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended = True
        if not self._whole_process:
            self._close()
            return
        atexit.register(self._close)  # which does not come to pass in every end
        if self._book is not None:
            self._book.write(self.start())

    def keep(self, folder: epath.Path, remat: str) -> None:
        """Writes this start down in the run's folder `goodput` from now on, if this is the leading process.

        Args:
          folder: the run's folder `goodput`.
          remat: what its steps compute again.
        """
        if own_index() == 0:
            self._earlier = goodput.read(folder)
            path = goodput.new_place(folder)
            self._about = {
                "number": int(path.stem),
                "host": socket.gethostname(),
                "processes": jax.process_count(),
                "devices": jax.device_count(),
                "remat": remat,
            }
            self._book = _Book(path, self.start)
            self._closers.callback(self._book.close)

    def trains(self, clock: DeviceClock) -> None:
        """Notes the number of the update that this start goes on from, and the clock that tells the later ones."""
        self._clock, self._first = clock, clock.step

    def account(self) -> goodput.Account:
        """Returns where the time of the run went so far, with its earlier starts; on the leading process."""
        return goodput.account([*self._earlier, self.start()])

    def start(self) -> Start:
        """Returns this start so far; any thread may call it."""
        with self._lock:
            now = time.monotonic()
            seconds = dict(self._seconds)
            self._add(seconds, self._phase, now)
            return Start(
                began=self._began,
                elapsed=sum(seconds.values()),
                seconds=seconds,
                first=self._first,
                step=self._clock.step if self._clock else 0,
                saves=tuple(self._saves),
                ended=self._ended,
                **self._about,
            )

    def _phase_ended(self, name: Phase, began: float, ended: float) -> None:
        with self._lock:
            self._add(self._seconds, name, ended)
            self._until, self._phase, self._compiled = ended, phases.current().name, 0.0
            if self._phase == "save" and self._clock is not None:
                self._saves.append((self._clock.step, self._seconds["step"]))
                if len(self._saves) > _MOST_SAVES:
                    self._saves[: _MOST_SAVES // 2] = self._saves[: _MOST_SAVES // 2 : 2]
            # A kill in the steps that follow leaves nothing of another phase to be taken for time that was down.
            notable = self._phase != name and {self._phase, name} != {"data", "step"}
        if notable and self._book is not None:
            self._book.write_soon()

    def _add(self, seconds: dict[str, float], name: Phase, until: float) -> None:
        """Adds what has passed of a phase."""
        passed = max(until - self._until, 0.0)
        compiled = min(self._compiled, passed)
        waited = passed - compiled
        if name == "data" and self._clock is not None:
            waited = min(self._clock.idle(self._until, until), waited)
            seconds["step"] += passed - compiled - waited
        seconds["compile"] += compiled
        seconds[name] += waited

    def _event(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILED and threading.get_ident() == self._thread_id:
            self._compiled += duration_secs

    def _close(self) -> None:
        start = self.start()
        self._closers.close()
        if self._book is not None:
            self._book.write(start)


class _Book:
    """The file of a start, and the thread that writes it. That it cannot be written ends nothing."""

    def __init__(self, path: epath.Path, start: Callable[[], Start]):
        self._path, self._start, self._warned = path, start, False
        self._every = EVERY if is_local(path) else EVERY_REMOTE
        self._soon, self._closed, self._writing = threading.Event(), threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._write_on, daemon=True, name="ledger")
        self._thread.start()

    def write_soon(self) -> None:
        """Makes the thread write before its time."""
        self._soon.set()

    def write(self, start: Start) -> None:
        """Writes the start down; warns once if that fails, and leaves it where another write is stuck."""
        content = f"{json.dumps(start.to_json())}\n".encode()
        if not self._writing.acquire(timeout=_PATIENCE):
            return
        try:
            self._path.parent.mkdir(exist_ok=True)
            if is_local(self._path):
                write_atomically(self._path, content)
            else:
                self._path.write_bytes(content)  # whole, in a store
        except Exception as error:  # each store's client has its own
            if not self._warned:
                reason = getattr(error, "strerror", None) or error
                line = f"{self._path} could not be written: {reason}. It is tried again"
                print(f"\n{line}", file=sys.stderr, flush=True)  # below the progress bar
            self._warned = True
        finally:
            self._writing.release()

    def close(self) -> None:
        """Ends the thread, unless it is stuck in a write."""
        self._closed.set()
        self._soon.set()
        self._thread.join(timeout=_PATIENCE)

    def _write_on(self) -> None:
        while not self._closed.is_set():
            self._soon.clear()
            self.write(self._start())
            self._closed.wait(self._every / 10)  # a store takes one write of a file a second
            self._soon.wait(0.9 * self._every)


def process_age() -> float:
    """Returns the seconds since this process was started; where the system does not tell, since its first imports."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # proc(5): starttime
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"), 0.0)
    except (OSError, ValueError, IndexError, AttributeError):
        return time.monotonic() - phases.current().since
