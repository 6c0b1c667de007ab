"""The matrix of faults: what happens to a job when something happens to one of its processes, in each phase.

    make faults, or python -m tests.cluster.faults [--faults kill stop ...] [--phases step save ...] [--processes 2 4]

Each cell is a real job that goes on from a checkpoint. One process is struck, and then every other one must end in
time, with one line that names host, phase and cause; every checkpoint must be whole; and the run must go on, to the
losses of one that nobody struck.
"""

import contextlib
import copy
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import jax

from tests import processes
from tests.cluster import tiny
from tests.cluster.struck import FAULTS
from tools.crash import write_corpus
from transformer import command
from transformer.checkpoint import verify
from transformer.errors import UserError

PHASES = ("start", "restore", "compile", "data", "step", "save", "evaluation", "exit")
DIFFERENCES = ("code", "config", "data", "library")
BEGUN, STEPS = 4, 8
"""Steps before a cell, which are saved, and after it."""
DEADLINES = {"start": 20.0, "compile": 15.0, "evaluation": 10.0}
"""Seconds of the phases that take more than a moment themselves. Each process imports and compiles on these cores."""
DEADLINE, SILENCE, ELSEWHERE = 6.0, 6.0, 120.0
"""Seconds of the other phases, of a process without a sign of life, and of the phases in which nothing happens."""
GRACE = 10.0
"""Seconds after the deadline at which all must be gone."""
_SCRIPT = str(processes.ROOT / "tests" / "cluster" / "struck.py")
_ALIVE = -1000
"""Stands for the exit code of a process that has not ended."""
DISK = 64
"""Megabytes of the disk that is filled."""
CAUSES = {
    "kill": r"is gone, .* killed or it crashed",
    "stop": r"no sign of life|stopped|silent",
    "raise": r"struck on purpose",
    "fill": r"No space left|could not be saved",
    "never": r"did not (come|find|answer)|past --cluster\.deadlines\.",
    "code": r"code|version|package",
    "config": r"train\.seed",
    "data": r"--data|corpus",
    "library": r"optax",
}
"""Fault -> what a line says that names it."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One case: so many processes, of which one is struck."""

    fault: str
    phase: str
    processes: int
    victim: int

    @property
    def name(self) -> str:
        return f"{self.fault} {self.phase} {self.victim} of {self.processes}"

    @property
    def deadline(self) -> float:
        return DEADLINES.get(self.phase, DEADLINE)

    @property
    def survives(self) -> bool:
        """Whether the job goes on to its end: in its exit, all is saved."""
        return self.fault == "late" or (self.fault == "fill" and self.phase == "exit")

    @property
    def is_stuck(self) -> bool:
        """Whether the victim cannot end: it is stopped, or knows no job yet. A scheduler ends it with the others."""
        return self.fault == "stop" or (self.fault == "never" and self.phase == "start")


SELECTED = (
    Cell("kill", "save", 4, 3),
    Cell("stop", "evaluation", 2, 0),
    Cell("raise", "restore", 2, 1),
    Cell("fill", "step", 2, 1),
    Cell("never", "compile", 2, 0),
    Cell("data", "start", 2, 1),
)
"""Cells that tests run each time; all of them take an hour."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a cell ended."""

    cell: Cell
    seconds: float
    """From the strike to the end of the last process, or of the last but the one that is stopped."""
    codes: tuple[int | None, ...]
    lines: tuple[str, ...]
    """The distinct lines about errors."""
    wrong: tuple[str, ...]
    """What is not as it should be."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Strike one process of a job in each phase, and see that nothing waits and nothing is lost."""

    faults: tuple[str, ...] = (*FAULTS, *DIFFERENCES)
    """What happens."""
    phases: tuple[str, ...] = PHASES
    """When it happens; what differs, differs from the start."""
    processes: tuple[int, ...] = (2, 4)
    """Numbers of processes."""
    victims: tuple[str, ...] = ("lead", "last")
    """Which process is struck."""
    selected: bool = False
    """Only a few cells, of every fault and phase, as the tests do."""
    slower: float = 1.0
    """Factor on all deadlines, for a machine that is busy."""
    folder: str | None = None
    """Where to work; by default a folder that is removed afterwards."""
    table: str | None = None
    """A file that gets the table, in Markdown."""


def cells(chosen: Command) -> Iterator[Cell]:
    """Yields the cells that make sense of those that were chosen."""
    if chosen.selected:
        yield from SELECTED
        return
    for count in chosen.processes:
        for victim in sorted({"lead": 0, "last": count - 1}[name] for name in chosen.victims):
            for fault in chosen.faults:
                for phase in chosen.phases if fault in FAULTS else ("start",):
                    yield Cell(fault, phase, count, victim)


class Bench:
    """What all cells share: a run that has begun, and the losses that it should come to."""

    def __init__(self, folder: Path, slower: float = 1.0):
        self.folder, self._slower = folder, slower
        self._number, self._program = 0, None
        for run, steps in (("whole", STEPS), ("begun", BEGUN)):
            if not (folder / run / "checkpoints" / str(steps)).exists():  # from an earlier start in this folder
                self._train(run, steps)
        self._losses = tiny.losses(folder / "whole")

    def strike(self, cell: Cell) -> Outcome:
        """Runs a cell."""
        self._number += 1
        name = f"cell-{self._number}"
        disk = self.folder / "disk" if cell.fault == "fill" else None
        if disk is not None:
            disk.mkdir(exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(disk)], check=True)
        run = (disk or self.folder) / name
        try:
            shutil.rmtree(run, ignore_errors=True)  # of an earlier start in this folder
            shutil.copytree(self.folder / "begun", run)
            ended, seconds = self._job(cell, run)
            wrong = [*_wrong(cell, ended), *_lost(run)]
            if seconds > cell.deadline * self._slower + GRACE and not cell.survives:
                wrong.append("late")
            (run.parent / "ballast").unlink(missing_ok=True)
            wrong += self._continue(run)
        finally:
            if disk is not None:
                subprocess.run(["umount", "--lazy", str(disk)], check=True)
            shutil.rmtree(run, ignore_errors=True)
        return Outcome(cell, seconds, tuple(each.code for each in ended), tuple(_lines(ended)), tuple(wrong))

    def _flags(self, run: str | Path, steps: int) -> list[str]:
        """Returns the arguments of train.py."""
        constant = ("--optimizer.schedule", "constant", "--optimizer.warmup-steps", "0")
        often = ("--train.eval-every", "2", "--checkpoint.every", "2")
        # The learning rate does not depend on the number of steps, which goes up after a run has begun.
        return tiny.command(self.folder, str(run), *constant, *often, steps=steps)[2:]

    def _train(self, run: str | Path, steps: int) -> None:
        """Trains in this process, on all its devices."""
        import train
        from transformer.training import loop, session

        make = session.Program

        def shared(*args: object) -> object:
            self._program = self._program or make(*args)
            return copy.copy(self._program)  # which keeps a step of its own that it compiled ahead

        chosen = train.parse(self._flags(run, steps))
        with mock.patch.object(session, "Program", shared), contextlib.redirect_stderr(io.StringIO()):
            loop.train(chosen.experiment, chosen.workdir, report=lambda line: None)

    def _job(self, cell: Cell, run: Path) -> tuple[list[processes.Ended], float]:
        """Returns how the processes of a cell ended, and the seconds from the strike to the last one's end."""
        struck = self.folder / "struck"
        struck.unlink(missing_ok=True)
        flags = [*self._flags(run, STEPS), *self._deadlines(cell), "--distributed"]
        variables = {"STRUCK": str(struck), "DISK": str(run.parent)}
        env = {index: dict(variables) for index in range(cell.processes)}
        env[cell.victim] |= self._difference(cell.fault)
        began = time.time()
        with processes.started(
            [_SCRIPT, cell.fault, cell.phase, str(cell.victim), *flags], cell.processes, env=env
        ) as job:
            left = [process for index, process in enumerate(job) if index != cell.victim or not cell.is_stuck]
            ends = time.monotonic() + ELSEWHERE * self._slower
            while any(process.poll() is None for process in left) and time.monotonic() < ends:
                time.sleep(0.1)
            seconds = time.time() - (json.loads(struck.read_text()) if struck.exists() else began)
            codes = [process.poll() for process in job]
            for process in job:
                process.kill()  # as a scheduler does with what is left of a job
            outputs = [process.communicate() for process in job]
        return [
            processes.Ended(_ALIVE if code is None else code, *output)
            for code, output in zip(codes, outputs, strict=True)
        ], seconds

    def _deadlines(self, cell: Cell) -> list[str]:
        limits = dict.fromkeys((*PHASES, "silence"), ELSEWHERE) | {cell.phase: cell.deadline}
        if cell.fault == "stop":
            limits["silence"] = SILENCE
        flags = [(f"--cluster.deadlines.{name}", str(limit * self._slower)) for name, limit in limits.items()]
        return [part for pair in flags for part in pair]

    def _difference(self, fault: str) -> dict[str, str]:
        """Returns the variables of a process that differs from the others."""
        other = self.folder / fault
        if fault == "config":
            return {"FLAGS": json.dumps({"--train.seed": "1"})}
        if fault == "data":
            if not other.exists():
                write_corpus(other)
                (other / "07.txt").write_text("another text " * 50)
            return {"FLAGS": json.dumps({"--data.path": str(other)})}
        if fault == "library" and not other.exists():
            about = other / "optax-0.0.1.dist-info" / "METADATA"
            about.parent.mkdir(parents=True)
            about.write_text("Metadata-Version: 2.1\nName: optax\nVersion: 0.0.1\n")
        if fault == "code" and not other.exists():
            for name in ("transformer", "configs", "tools"):
                shutil.copytree(processes.ROOT / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(processes.ROOT / "train.py", other)
            with open(other / "transformer" / "training" / "state.py", "a") as file:
                file.write("# as on a machine that was forgotten in an update\n")
        return {"PYTHONPATH": f"{other}{os.pathsep}{processes.ROOT}"} if fault in ("code", "library") else {}

    def _continue(self, run: Path) -> Iterator[str]:
        """Goes on with the run of a cell; yields what is wrong with its losses."""
        try:
            self._train(run, STEPS)
        except Exception as error:
            yield f"the rerun fails: {error}"
            return
        losses = tiny.losses(run)
        if losses.keys() != self._losses.keys():
            yield f"the rerun has the steps {sorted(losses)}"
        elif off := [step for step, loss in losses.items() if abs(loss / self._losses[step] - 1) > tiny.TOLERANCE]:
            yield f"the rerun has other losses in the steps {off}"


def _wrong(cell: Cell, ended: Sequence[processes.Ended]) -> Iterator[str]:
    """Yields what is wrong with how a job ended."""
    for index, each in enumerate(ended):
        if index == cell.victim and cell.is_stuck:
            continue
        if each.code == _ALIVE:
            yield f"process {index} is still there"
        elif cell.survives and each.code:
            yield f"process {index} ends with {each.code}"
        elif not cell.survives and index == cell.victim and cell.fault == "kill":
            continue
        elif not cell.survives:
            lines = each.error_lines
            if not each.code:
                yield f"process {index} ends with 0"
            elif len(lines) != 1 and not (cell.fault == "raise" and index == cell.victim):  # it shows its traceback
                yield f"process {index} says {len(lines)} lines"
    if cell.survives:
        return
    said = _lines(ended)
    names = {"cause": CAUSES[cell.fault]}
    if cell.fault == "fill":  # which is no host's: the disk is shared
        names["folder"] = r"/cell-\d+\b"
    elif cell.fault == "data" and cell.victim == 0:  # the run's own record refuses what the leading process asks for
        names["folder"] = r"/cell-\d+ holds another experiment"
    else:
        unknown = cell.fault == "never" and cell.phase == "start"  # it has told nobody where it is
        names["host"] = rf"\bprocess {cell.victim}\b" if unknown else rf"\bhost{cell.victim}\b"
        if cell.fault == "stop":  # the others know the phase of its last sign of life
            names["phase"] = r"last seen in phase \w+"
        elif cell.fault == "kill":  # it said nothing: the phase is that of the one that misses it
            names["phase"] = r"is gone, in phase \w+"
        elif cell.fault in FAULTS:
            names["phase"] = rf"\bphase {cell.phase}\b"
    for what, pattern in names.items():
        if said and not all(re.search(pattern, line) for line in said):
            yield f"the line does not name the {what}"
    if cell.fault == "never" and cell.phase == "start" and cell.victim == 0:  # nobody carries one's line to the others
        said = list(
            dict.fromkeys(re.sub(r"process \d+ of \d+ on \S+ did not find", "none found", line) for line in said)
        )
    if len(said) > 1:
        yield f"{len(said)} different lines"


def _lines(ended: Sequence[processes.Ended]) -> list[str]:
    return list(dict.fromkeys(line for each in ended for line in each.error_lines))


def _lost(run: Path) -> Iterator[str]:
    """Yields what is wrong with the checkpoints of a run."""
    steps = sorted(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    if not steps or steps[-1] < BEGUN:
        yield f"the checkpoints are those of the steps {steps}"
    for step in steps:
        damage = verify(run / "checkpoints" / str(step))
        if damage and not damage[0].startswith("seal.json: missing"):  # a kill between the rename and the seal
            yield f"checkpoint {step}: {damage[0]}"


def table(outcomes: Sequence[Outcome]) -> str:
    """Returns the outcomes in Markdown: faults down, phases across, the seconds of the slowest of each kind."""

    def text(fault: str, phase: str) -> str:
        mine = [each for each in outcomes if (each.cell.fault, each.cell.phase) == (fault, phase)]
        if not mine:
            return ""
        wrong = sum(bool(each.wrong) for each in mine)
        return f"{max(each.seconds for each in mine):.1f}" + (f" (**{wrong} of {len(mine)} wrong**)" if wrong else "")

    faults = dict.fromkeys(each.cell.fault for each in outcomes)
    phases = [phase for phase in PHASES if any(each.cell.phase == phase for each in outcomes)]
    rows = [[fault, *(text(fault, phase) for phase in phases)] for fault in faults]
    lines = [["", *phases], ["---"] * (len(phases) + 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(args: list[str]) -> None:
    """Runs the command line."""
    chosen = command.parse(Command, args, prog="tests.cluster.faults", default=Command())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the processes of a cell would live on
    with contextlib.ExitStack() as stack:
        folder = Path(chosen.folder or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True, parents=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "xla")
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", max(chosen.processes))
        bench, outcomes = Bench(folder, chosen.slower), []
        for cell in cells(chosen):
            outcome = bench.strike(cell)
            outcomes.append(outcome)
            print(
                f"{cell.name}: {outcome.seconds:.1f} s, exit {outcome.codes}", *outcome.lines, sep="\n    ", flush=True
            )
            for wrong in outcome.wrong:
                print(f"    WRONG: {wrong}", flush=True)
            if chosen.table:
                Path(chosen.table).write_text(table(outcomes))
        bad = sum(bool(outcome.wrong) for outcome in outcomes)
        print(f"{table(outcomes)}\n{len(outcomes)} cells, {len(outcomes) - bad} as they should be")
    if bad:
        raise UserError(f"{bad} of {len(outcomes)} cells are not as they should be")


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
