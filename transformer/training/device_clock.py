"""The devices' clock: when they compute a step, and when they wait for their host.

A step is dispatched and computed later, while the host already waits for the next batch. That wait costs nothing until
the device is done. So a thread waits for each step's output and notes when it came; the main thread never does.
"""

import dataclasses
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from transformer.cluster import phases
from transformer.cluster.phases import Phase


@dataclasses.dataclass(frozen=True)
class Tally:
    """Sums over some steps that followed each other, without an evaluation or a save between them."""

    steps: int = 0
    seconds: float = 0.0
    late: float = 0.0
    """Seconds of them in which this process's devices waited for their host to dispatch the next step."""
    data: float = 0.0
    """Seconds of these in which the host waited for its batch."""

    def __add__(self, other: "Tally") -> "Tally":
        sums = (mine + its for mine, its in zip(*map(dataclasses.astuple, (self, other)), strict=True))
        return Tally(*sums)


class DeviceClock:
    """Notes when this process's devices are busy with steps. A context manager.

    The main thread calls `dispatches` before each step and `dispatched` after it.

    Args:
      step: the number of the last update that was made before.
    """

    def __init__(self, step: int = 0):
        self.step = step
        """Number of the update that was dispatched last."""
        self._outputs: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
        self._done = step, -math.inf  # of the last update that is done: its number, and when it was
        self._mark: float | None = None  # when the step of now was dispatched; None: something else came since
        self._data = 0.0  # seconds that the devices waited for the next step's batch
        self._tally, self._taking = Tally(), threading.Lock()
        self._stop_listening: Callable[[], None] = lambda: None

    def __enter__(self) -> "DeviceClock":
        self._stop_listening = phases.listen(self._phase_ended)
        threading.Thread(target=self._wait_for_outputs, daemon=True, name="device clock").start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop_listening()
        self._outputs.put(None)  # the thread may be in a step that never ends: nobody waits for it

    def dispatches(self) -> None:
        """Says that the main thread is about to dispatch a step."""
        now = time.monotonic()
        if self._mark is not None:
            late = self.idle(self._mark, now)
            with self._taking:
                self._tally += Tally(1, now - self._mark, late, min(self._data, late))
        self._mark, self._data = now, 0.0

    def dispatched(self, step: int, output: jax.Array) -> None:
        """Takes an output of the update number `step`, which may not be computed yet."""
        self.step = step
        self._outputs.put((step, output))

    def idle(self, began: float, ended: float) -> float:
        """Returns for how many seconds of an interval the devices had no step to compute.

        Args:
          began: when it began, by `time.monotonic`; not before the last step was dispatched.
          ended: when it ended, which is about now.
        """
        done, when = self._done
        return 0.0 if done < self.step else max(ended - max(began, when), 0.0)

    def take(self) -> Tally:
        """Returns the sums since the last call; any thread may call it."""
        with self._taking:
            taken, self._tally = self._tally, Tally()
        return taken

    def _phase_ended(self, name: Phase, began: float, ended: float) -> None:
        if name == "data":
            self._data += self.idle(began, ended)
        elif name != "step":
            self._mark = None

    def _wait_for_outputs(self) -> None:
        while (dispatched := self._outputs.get()) is not None:
            step, output = dispatched
            try:
                output.block_until_ready()
            except Exception:  # the main thread meets it too
                return
            self._done = step, time.monotonic()
