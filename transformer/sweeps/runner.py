"""Runner: makes many runs, several at a time; a run that fails is named, and the others go on.

Each run is `train.py --workdir RUN` in a process of its own, so that no run can harm another. Processes share compiled
programs through JAX's cache; runs that differ in arguments of their program alone (rates, seeds) compile once.
"""

import dataclasses
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, Literal, TypeVar

from etils import epath

from transformer.checkpoint import to_json, write_atomically
from transformer.checkpoint.rewrite import fork
from transformer.errors import Interrupted, UserError
from transformer.models import architecture_to_dict
from transformer.sweeps.cells import Outcome, PlannedRun, experiment_path, last_words, log_path, outcome, run_of
from transformer.sweeps.processes import signals_noted, started
from transformer.training import experiment as experiments
from transformer.training.lock import RunLock
from transformer.training.run import Run

State = Literal["waits", "runs", "ended", "failed"]
Cell = TypeVar("Cell", bound=PlannedRun)

_PATIENCE = 60.0
"""Seconds that a run whose folder another process holds is waited for: that of a killed runner saves and ends."""
_GLANCE = 0.1
"""Seconds after which a signal is passed on, at most."""


@dataclasses.dataclass
class CellProgress(Generic[Cell]):
    """State of a cell's run."""

    cell: Cell
    state: State
    outcome: Outcome
    reason: str = ""
    """Why it failed, in one line."""
    told: bool = False
    """Whether its process was told to stop: one that is told twice leaves at once."""


Running = dict[str, tuple[subprocess.Popen, int]]
"""Name -> the process and its place among the shares."""


def run_cells(
    cells: Sequence[Cell],
    folder: epath.PathLike,
    program: Sequence[str],
    *,
    resume: str,
    shares: Sequence[set[int] | None] = (None,),
    show: Callable[[list[CellProgress[Cell]]], None] = lambda _: None,
    failed: Callable[[CellProgress[Cell]], None] = lambda _: None,
    poll: float = 1.0,
) -> list[CellProgress[Cell]]:
    """Makes all runs that have not ended, in their order; returns the final state of each.

    SIGINT and SIGTERM are passed on: the runs save and stop, and the same call goes on with them.

    Args:
      cells: the runs.
      folder: the folder that they share, with their experiments; local.
      program: the command that `--workdir RUN` is added to.
      resume: the command that goes on, for people.
      shares: the cores of each run, one entry for each run at a time; None: all cores.
      show: called with the state of all runs, every `poll` seconds.
      failed: called with each run whose process fails, at once.
      poll: seconds between looks at the runs.

    Raises:
      Interrupted: a signal came.
    """
    states = {cell.name: CellProgress(cell, "waits", outcome(folder, cell)) for cell in cells}
    for progress in states.values():
        if progress.outcome.ended:
            progress.state = "ended"
    running: Running = {}
    patience = time.monotonic() + _PATIENCE
    with signals_noted() as signals:
        try:
            while True:
                _reap(folder, states, running, failed, stopping=bool(signals))
                taken = {place for _, place in running.values()}
                for place in sorted(set(range(len(shares))) - taken) if not signals else ():
                    _start_next(folder, states, running, program, shares[place], place, patience)
                for name in running:
                    states[name].outcome = outcome(folder, states[name].cell)
                show(list(states.values()))
                if not running and (signals or not any(progress.state == "waits" for progress in states.values())):
                    break
                if signals:
                    _pass_on(states, running, signals[-1])
                _wait(poll, signals)
        finally:
            for process, _ in running.values():  # after an error here no run may go on unwatched
                process.terminate()
    if signals:
        raise Interrupted(f"{signal.Signals(signals[0]).name}: stopped. To go on: {resume}")
    return list(states.values())


def _start_next(
    folder: epath.PathLike,
    states: dict[str, CellProgress[Cell]],
    running: Running,
    program: Sequence[str],
    cores: set[int] | None,
    place: int,
    patience: float,
) -> None:
    """Starts the first run that is ready, if any is."""
    for name, progress in states.items():
        if _is_ready(progress, states):
            try:
                RunLock(run_of(folder, name).folder).check_free()
            except UserError as error:
                if time.monotonic() > patience:
                    progress.state, progress.reason = "failed", str(error)
                continue
            try:
                running[name] = _start(folder, progress, program, cores), place
            except UserError as error:
                progress.state, progress.reason = "failed", str(error)
            else:
                return


def _is_ready(progress: CellProgress[Cell], states: dict[str, CellProgress[Cell]]) -> bool:
    """Whether a run can start. A run whose trunk failed is marked as failed, too."""
    if progress.state != "waits":
        return False
    if progress.cell.trunk is None:
        return True
    if progress.cell.trunk not in states:  # it is not asked for: it has ended, or this one cannot begin
        return True
    trunk = states[progress.cell.trunk]
    if trunk.state == "failed":
        progress.state, progress.reason = "failed", f"its trunk, {trunk.cell.name}, failed"
    return trunk.state == "ended"


def _start(
    folder: epath.PathLike, progress: CellProgress[Cell], program: Sequence[str], cores: set[int] | None
) -> subprocess.Popen:
    """Starts a run's process; its output goes to `logs/NAME.log`."""
    run = run_of(folder, progress.cell.name)
    if not run.experiment_path.exists():
        _begin(folder, progress.cell, run)
    progress.state = "runs"
    return started([*program, "--workdir", str(run.folder)], Path(log_path(folder, progress.cell)), cores)


def _begin(folder: epath.PathLike, cell: PlannedRun, run: Run) -> None:
    """Makes a run's folder, with its experiment; a branch begins with its trunk's checkpoint."""
    experiment = experiments.read(experiment_path(folder, cell))
    record = to_json(experiments.to_dict(experiment))
    if run.folder.exists():  # a kill left a part of it
        run.folder.rmtree()
    if cell.trunk is None:
        run.folder.mkdir(parents=True)
        write_atomically(run.experiment_path, record)
        return
    architecture = to_json(architecture_to_dict(experiment.model))
    checkpoint = run_of(folder, cell.trunk).checkpoints / str(cell.branch)
    fork(checkpoint, run.folder, {"experiment.json": record, "architecture.json": architecture})


def _reap(
    folder: epath.PathLike,
    states: dict[str, CellProgress[Cell]],
    running: Running,
    failed: Callable[[CellProgress[Cell]], None],
    *,
    stopping: bool,
) -> None:
    """Takes note of the processes that have ended; a process that was told to stop has not failed."""
    for name, (process, _) in list(running.items()):
        if process.poll() is None:
            continue
        del running[name]
        progress = states[name]
        progress.outcome = outcome(folder, progress.cell)
        if progress.outcome.ended:
            progress.state = "ended"
        elif stopping or process.returncode == Interrupted.exit_code:
            progress.state = "waits"
        else:
            progress.state, progress.reason = "failed", _last_words(folder, progress.cell, process.returncode)
            failed(progress)


def _last_words(folder: epath.PathLike, cell: PlannedRun, code: int) -> str:
    words = last_words(folder, cell).removeprefix("error: ")[:300] or "it said nothing"
    ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
    return f"{ended}: {words} ({log_path(folder, cell)})"


def _wait(seconds: float, signals: Sequence[int]) -> None:
    """Waits; shorter where a signal comes, which the runs should hear of at once."""
    known, ends = len(signals), time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0 and len(signals) == known:
        time.sleep(min(left, _GLANCE))


def _pass_on(states: dict[str, CellProgress[Cell]], running: Running, number: int) -> None:
    """Sends a signal to each run once, since a run that gets two leaves at once."""
    for name, (process, _) in running.items():
        if not states[name].told:
            states[name].told = True
            process.send_signal(number)
