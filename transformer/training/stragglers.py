"""Stragglers: a process whose host keeps all the others waiting, step after step.

In a synchronous step all processes take equally long, whoever is slow: the others wait for it in a collective. What
each can measure alone is how long its devices waited for their host (`DeviceClock`): for a batch, or for whatever else
kept Python from dispatching the next step. A straggler's wait, the others do not; their devices are busy, waiting for
it. So the step would be as much shorter as its wait is longer than the others'.

This sees slow input, a busy or throttled host, and a disk that is slow on one machine. It cannot see a slow chip or a
slow link: these lie within the compiled step, of which no host sees more than its end. Who looks for them, records
events on each device (MegaScale, Jiang et al. 2024, section 5.1) or of each collective (Llama 3, Grattafiori et al.
2024, section 3.3.4). The processes tell their sums to the coordination service every half a minute, from a thread; no
step waits for it, and no process for another.
"""

import contextlib
import dataclasses
import json
import socket
import statistics
import threading
import time
from collections.abc import Callable, Mapping

import jax

from transformer.cluster.agreement import alone, coordination, own_index, process_name
from transformer.training.device_clock import DeviceClock, Tally

EVERY = 30.0
"""Seconds between two looks."""
LASTS = 300.0
"""Seconds after which a process that is the slowest at every look is named; it is named again after twice as many."""
SHARE = 0.05
"""Share of a step's time that a process must cost the others, to be a straggler."""
_FOLDER = "transformer/pace"


@dataclasses.dataclass(frozen=True)
class Straggler:
    """The process that the others wait for, and what it costs them."""

    index: int
    step: float
    """Seconds of a step."""
    without: float
    """Seconds that a step would take if its host were as fast as the median of the others."""
    late: float
    """Seconds a step that its devices wait for their host."""
    data: float
    """Seconds of these that its host waits for a batch."""


def straggler(tallies: Mapping[int, Tally]) -> Straggler | None:
    """Returns the slowest of several processes, if it costs the others more than `SHARE` of a step.

    Args:
      tallies: process index -> sums over the same time, more or less; of every process.
    """
    late = {index: tally.late / tally.steps for index, tally in tallies.items() if tally.steps}
    if len(late) < len(tallies) or len(late) < 2:
        return None
    index = max(late, key=lambda each: late[each])
    slowest, others = tallies[index], statistics.median(late[each] for each in late if each != index)
    step = slowest.seconds / slowest.steps
    cost = late[index] - others
    if cost <= SHARE * step:
        return None
    return Straggler(index, step, step - cost, late[index], slowest.data / slowest.steps)


class Lasting:
    """Whether it is the same process that is slow, look after look."""

    def __init__(self) -> None:
        self._index: int | None = None
        self._since, self._next = 0.0, LASTS

    def look(self, now: float, found: Straggler | None) -> float | None:
        """Returns for how many seconds this process has been the slowest, if it is time to say so.

        Args:
          now: seconds of any clock that never jumps.
          found: the slowest process of now.
        """
        if found is None or found.index != self._index:
            self._index, self._since, self._next = (None if found is None else found.index), now, LASTS
            return None
        lasted = now - self._since
        if lasted < self._next:
            return None
        self._next = 2 * lasted
        return lasted


class Stragglers:
    """Looks for stragglers from a thread of each process, and reports those that last. A context manager.

    Alone, it does nothing.

    Args:
      clock: this process's.
      report: called with a line for people, on the leading process.
    """

    def __init__(self, clock: DeviceClock, report: Callable[[str], None]):
        self._clock, self._report = clock, report
        self._done, self._lasting = threading.Event(), Lasting()
        self._looks, self._seen = 0, {}

    def __enter__(self) -> "Stragglers":
        if not alone():
            threading.Thread(target=self._watch, daemon=True, name="stragglers").start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()

    def _watch(self) -> None:
        self._clock.take()
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service is gone: so is the job
            while not self._done.wait(EVERY):
                self._tell()
                if own_index() == 0:
                    self._look()

    def _tell(self) -> None:
        self._looks += 1
        tally = dataclasses.astuple(self._clock.take())
        record = {"look": self._looks, "host": socket.gethostname(), "tally": tally}
        coordination().key_value_set(f"{_FOLDER}/{own_index()}", json.dumps(record), allow_overwrite=True)

    def _look(self) -> None:
        records = {
            int(key.rpartition("/")[2]): json.loads(value) for key, value in coordination().key_value_dir_get(_FOLDER)
        }
        before, self._seen = self._seen, {index: record["look"] for index, record in records.items()}
        if len(records) < jax.process_count() or any(before.get(index) == look for index, look in self._seen.items()):
            return  # one has not told anything new
        found = straggler({index: Tally(*record["tally"]) for index, record in records.items()})
        lasted = self._lasting.look(time.monotonic(), found)
        if found is not None and lasted is not None:
            self._report(_line(found, records[found.index]["host"], lasted))


def _line(found: Straggler, host: str, lasted: float) -> str:
    duration = f"{lasted / 60:,.0f} minutes" if lasted >= 90 else f"{lasted:,.0f} seconds"
    step, without, late, data = map(_seconds, (found.step, found.without, found.late, found.data))
    return (
        f"{process_name(found.index)} on {host} has been the slowest for {duration}: {step} a step, beside {without} "
        f"with the median of the other hosts. Its devices wait {late} a step for their host, {data} of it for data"
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds:.3f} s"
