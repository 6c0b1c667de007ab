"""Sweep: a study's runs made, several at a time; one that fails is named, and the others go on.

Each run is `train.py --workdir RUN` in a process of its own: what it does to itself, it does to itself alone. Processes
share compiled programs through JAX's cache, and the runs of a size differ in what a program takes as arguments, so
that a size compiles once.
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
    """Where a cell is."""

    cell: Cell
    state: State
    outcome: Outcome
    reason: str = ""
    """Why it failed, in a line."""


def sweep(
    study: Study,
    folder: epath.PathLike,
    program: Sequence[str],
    *,
    shares: Sequence[set[int] | None] = (None,),
    show: Callable[[list[CellProgress]], None] = lambda _: None,
    poll: float = 1.0,
) -> list[CellProgress]:
    """Makes all runs of a study that have not ended, in its order; returns where each one is then.

    SIGINT and SIGTERM are passed on: the runs save and stop, and the same call goes on with them.

    Args:
      study: of the folder.
      folder: STUDY; local.
      program: the command that `--workdir RUN` is added to.
      shares: the cores of each of the runs that are made at a time; None: all.
      show: called with where all are, every `poll` seconds.
      poll: seconds.

    Raises:
      Interrupted: a signal came.
    """
    cells = {cell.name: CellProgress(cell, "waits", outcome(folder, cell)) for cell in study.cells}
    for one in cells.values():
        if one.outcome.ended:
            one.state = "ended"
    running: dict[str, tuple[subprocess.Popen, int]] = {}
    with _signals() as came:
        try:
            while True:
                _reap(folder, cells, running, stopping=bool(came))
                taken = {place for _, place in running.values()}
                for place in sorted(set(range(len(shares))) - taken) if not came else ():
                    if (started := _start_next(folder, cells, program, shares[place])) is not None:
                        name, process = started
                        running[name] = process, place
                for name in running:
                    cells[name].outcome = outcome(folder, cells[name].cell)
                show(list(cells.values()))
                if not running:
                    break
                if came:
                    _pass_on(running, came[-1])
                time.sleep(poll)
        finally:
            for process, _ in running.values():  # an error of ours: nothing is to go on behind our back
                process.terminate()
    if came:
        raise Interrupted(f"{signal.Signals(came[0]).name}: stopped. To go on: python tools/scaling.py run {folder}")
    return list(cells.values())


def _start_next(
    folder: epath.PathLike, cells: dict[str, CellProgress], program: Sequence[str], cores: set[int] | None
) -> tuple[str, subprocess.Popen] | None:
    """Starts the first run that can; returns its name and its process. None: there is nothing to start now."""
    for one in cells.values():
        if _is_ready(one, cells):
            try:
                return one.cell.name, _start(folder, one, program, cores)
            except UserError as error:
                one.state, one.reason = "failed", str(error)
    return None


def _is_ready(one: CellProgress, cells: dict[str, CellProgress]) -> bool:
    """Whether a run can start. One whose trunk failed fails with it, and is not waited for."""
    if one.state != "waits":
        return False
    if one.cell.trunk is None:
        return True
    if one.cell.trunk not in cells:  # it is not asked for: it has ended, or this one cannot begin
        return True
    trunk = cells[one.cell.trunk]
    if trunk.state == "failed":
        one.state, one.reason = "failed", f"its trunk, {trunk.cell.name}, failed"
    return trunk.state == "ended"


def _start(
    folder: epath.PathLike, one: CellProgress, program: Sequence[str], cores: set[int] | None
) -> subprocess.Popen:
    """Starts a run's process; what it says goes to `logs/NAME.log`."""
    run = run_of(folder, one.cell.name)
    place = Path(log_path(folder, one.cell))
    place.parent.mkdir(parents=True, exist_ok=True)
    if not run.experiment_path.exists():
        _begin(folder, one.cell, run)
    one.state = "runs"
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
    """Makes a run's folder, with its experiment; one that branches begins with its trunk's checkpoint."""
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
    """Takes note of the processes that have ended; none has failed that was told to stop."""
    for name, (process, _) in list(running.items()):
        if process.poll() is None:
            continue
        del running[name]
        one = cells[name]
        one.outcome = outcome(folder, one.cell)
        if one.outcome.ended:
            one.state = "ended"
        elif stopping or process.returncode == Interrupted.exit_code:
            one.state = "waits"
        else:
            one.state, one.reason = "failed", _last_words(folder, one.cell, process.returncode)


def _last_words(folder: epath.PathLike, cell: Cell, code: int) -> str:
    said = last_words(folder, cell).removeprefix("error: ")[:300] or "it said nothing"
    ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
    return f"{ended}: {said} ({log_path(folder, cell)})"


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Gives the list of SIGINT and SIGTERM that came."""
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(running: dict[str, tuple[subprocess.Popen, int]], number: int) -> None:
    """Tells each run once; a run that is told twice leaves at once."""
    for process, _ in running.values():
        if not vars(process).get("told"):
            process.told = True  # type: ignore[attr-defined]
            process.send_signal(number)


def shares(jobs: int, *, cpu: bool) -> list[set[int] | None]:
    """Returns each job's cores: its part of them, where there is nothing else to compute on.

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
