"""Instruments: what a run's updates are read by as they are made, their metrics and their time."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

from transformer.debugging.capsule import Capsules
from transformer.training.device_clock import DeviceClock
from transformer.training.ledger import Ledger
from transformer.training.metrics import MetricsLog
from transformer.training.opening import OpenRun
from transformer.training.profile import Profiler
from transformer.training.progress import Progress
from transformer.training.state import TrainState
from transformer.training.stragglers import Stragglers


@dataclasses.dataclass(frozen=True)
class Instruments:
    """The instruments that are told of each update; the others read these."""

    clock: DeviceClock
    progress: Progress
    profiler: Profiler


@contextlib.contextmanager
def attached(
    opened: OpenRun,
    ledger: Ledger,
    report: Callable[[str], None],
    *,
    newest: Callable[[], TrainState],
    profile: bool,
) -> Iterator[Instruments]:
    """A context in which instruments read the updates of a run.

    Args:
      opened: the run.
      ledger: of this start; it counts the updates from here on.
      report: called with a line for people now and then.
      newest: returns the newest state.
      profile: whether to write a trace of a few steps into the run's folder.
    """
    run, session, first = opened.run, opened.session, opened.first.step
    clock, capsules = DeviceClock(first), Capsules(run, session, report)
    ledger.trains(clock)
    with (
        clock,
        Stragglers(clock, report),
        MetricsLog(run, resume_from=first, evaluates_first=opened.evaluates_first, report=report) as log,
        Progress(
            log,
            opened.throughput,
            session.experiment.train,
            first,
            watch=lambda step, values: capsules.check(step, values, newest()),
            account=ledger.account,
        ) as progress,
        Profiler(run.folder / "profile" if profile else None, first) as profiler,
    ):
        yield Instruments(clock, progress, profiler)
