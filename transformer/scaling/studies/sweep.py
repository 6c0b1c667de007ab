"""Sweep: makes a study's runs, several at a time; a run that fails is named, and the others go on.

Each run is `train.py --workdir RUN` in a process of its own, so that no run can harm another. Processes share compiled
programs through JAX's cache; the runs of a size differ in arguments of their program alone, so a size compiles once.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from etils import epath

from transformer.checkpoint import to_json, write_atomically
from transformer.checkpoint.rewrite import fork
from transformer.errors import Interrupted, UserError
from transformer.models import architecture_to_dict
from transformer.scaling.studies.study import (
    Cell,
    Outcome,
    Study,
    experiment_path,
    last_words,
    log_path,
    outcome,
    run_of,
)
from transformer.training import experiment as experiments
from transformer.training.run import Run

State = Literal["waits", "runs", "ended", "failed"]


@dataclasses.dataclass
class CellProgress:
    """State of a cell's run."""

    cell: Cell
    state: State
    outcome: Outcome
    reason: str = ""
    """Why it failed, in one line."""


def sweep(
    study: Study,
    folder: epath.PathLike,
    program: Sequence[str],
    *,
    shares: Sequence[set[int] | None] = (None,),
    show: Callable[[list[CellProgress]], None] = lambda _: None,
    poll: float = 1.0,
) -> list[CellProgress]:
    """Makes all runs of a study that have not ended, in its order; returns the final state of each.

    SIGINT and SIGTERM are passed on: the runs save and stop, and the same call goes on with them.

    Args:
      study: the study in the folder.
      folder: STUDY; local.
      program: the command that `--workdir RUN` is added to.
      shares: the cores of each run, one entry for each run at a time; None: all cores.
      show: called with the state of all runs, every `poll` seconds.
      poll: seconds between looks at the runs.

    Raises:
      Interrupted: a signal came.
    """
    cells = {cell.name: CellProgress(cell, "waits", outcome(folder, cell)) for cell in study.cells}
    for progress in cells.values():
        if progress.outcome.ended:
            progress.state = "ended"
    running: dict[str, tuple[subprocess.Popen, int]] = {}
    with _signals() as signals:
        try:
            while True:
                _reap(folder, cells, running, stopping=bool(signals))
                taken = {place for _, place in running.values()}
                for place in sorted(set(range(len(shares))) - taken) if not signals else ():
                    if (started := _start_next(folder, cells, program, shares[place])) is not None:
                        name, process = started
                        running[name] = process, place
                for name in running:
                    cells[name].outcome = outcome(folder, cells[name].cell)
                show(list(cells.values()))
                if not running:
                    break
                if signals:
                    _pass_on(running, signals[-1])
                time.sleep(poll)
        finally:
            for process, _ in running.values():  # after an error here no run may go on unwatched
                process.terminate()
    if signals:
        raise Interrupted(f"{signal.Signals(signals[0]).name}: stopped. To go on: python tools/scaling.py run {folder}")
    return list(cells.values())


def _start_next(
    folder: epath.PathLike, cells: dict[str, CellProgress], program: Sequence[str], cores: set[int] | None
) -> tuple[str, subprocess.Popen] | None:
    """Starts the first run that is ready; returns its name and its process, or None if none is ready."""
    for progress in cells.values():
        if _is_ready(progress, cells):
            try:
                return progress.cell.name, _start(folder, progress, program, cores)
            except UserError as error:
                progress.state, progress.reason = "failed", str(error)
    return None


def _is_ready(progress: CellProgress, cells: dict[str, CellProgress]) -> bool:
    """Whether a run can start. A run whose trunk failed is marked as failed, too."""
    if progress.state != "waits":
        return False
    if progress.cell.trunk is None:
        return True
    if progress.cell.trunk not in cells:  # it is not asked for: it has ended, or this one cannot begin
        return True
    trunk = cells[progress.cell.trunk]
    if trunk.state == "failed":
        progress.state, progress.reason = "failed", f"its trunk, {trunk.cell.name}, failed"
    return trunk.state == "ended"


def _start(
    folder: epath.PathLike, progress: CellProgress, program: Sequence[str], cores: set[int] | None
) -> subprocess.Popen:
    """Starts a run's process; its output goes to `logs/NAME.log`."""
    run = run_of(folder, progress.cell.name)
    place = Path(log_path(folder, progress.cell))
    place.parent.mkdir(parents=True, exist_ok=True)
    if not run.experiment_path.exists():
        _begin(folder, progress.cell, run)
    progress.state = "runs"
    with place.open("ab") as log:
        process = subprocess.Popen(
            [*program, "--workdir", str(run.folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches it through us alone, once
        )
    if cores is not None:
        os.sched_setaffinity(process.pid, cores)  # before it has threads, which inherit it
    return process


def _begin(folder: epath.PathLike, cell: Cell, run: Run) -> None:
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
    cells: dict[str, CellProgress],
    running: dict[str, tuple[subprocess.Popen, int]],
    *,
    stopping: bool,
) -> None:
    """Takes note of the processes that have ended; a process that was told to stop has not failed."""
    for name, (process, _) in list(running.items()):
        if process.poll() is None:
            continue
        del running[name]
        progress = cells[name]
        progress.outcome = outcome(folder, progress.cell)
        if progress.outcome.ended:
            progress.state = "ended"
        elif stopping or process.returncode == Interrupted.exit_code:
            progress.state = "waits"
        else:
            progress.state, progress.reason = "failed", _last_words(folder, progress.cell, process.returncode)


def _last_words(folder: epath.PathLike, cell: Cell, code: int) -> str:
    words = last_words(folder, cell).removeprefix("error: ")[:300] or "it said nothing"
    ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
    return f"{ended}: {words} ({log_path(folder, cell)})"


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Yields a list to which each SIGINT or SIGTERM received is added."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(running: dict[str, tuple[subprocess.Popen, int]], number: int) -> None:
    """Sends a signal to each run once, since a run that gets two leaves at once."""
    for process, _ in running.values():
        if not vars(process).get("told"):
            process.told = True  # type: ignore[attr-defined]
            process.send_signal(number)


def shares(jobs: int, *, cpu: bool) -> list[set[int] | None]:
    """Returns the cores of each job: a part of them on a CPU, None (all) where there is an accelerator.

    Raises:
      UserError: more jobs than cores, or none.
    """
    cores = sorted(os.sched_getaffinity(0))
    if jobs < 1 or (cpu and jobs > len(cores)):
        raise UserError(f"--jobs {jobs}: give 1{f' to {len(cores)}, one a core' if cpu else ' or more'}")
    return [set(cores[place::jobs]) if cpu and jobs > 1 else None for place in range(jobs)]


def program() -> list[str]:
    """Returns the command that trains: this repository's train.py, with this Python."""
    return [sys.executable, str(Path(__file__).parents[3] / "train.py")]
