"""Results of a study, as its report shows them: the runs with their losses and costs, and the fitted laws."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from etils import epath

from transformer.checkpoint import provenance, reading
from transformer.errors import UserError
from transformer.scaling.laws import law_file
from transformer.scaling.laws.law_file import Fitted, TableRecord
from transformer.scaling.laws.reading import drop_highest
from transformer.scaling.laws.table import RunTable
from transformer.scaling.studies import study
from transformer.scaling.studies.study import Cell, Study
from transformer.sweeps import cells
from transformer.training.run import Run

State = Literal["ended", "not finite", "unfinished", "not begun"]


@dataclasses.dataclass(frozen=True)
class RunResult:
    """One run, as far as it has got."""

    cell: Cell
    state: State
    loss: float
    """Validation loss at its end, nats; NaN where it has none."""
    steps: np.ndarray
    """[P] updates at which its loss was logged; only its own updates if it is a branch."""
    losses: np.ndarray
    """[P] training loss there, nats; NaN where it was not finite."""
    seconds: float
    """Time of its own updates, without compiling, evaluating and saving; NaN where none was timed."""
    writer: Mapping[str, Any]
    """Record of what wrote its newest checkpoint (devices, processes, versions); empty where it has none."""
    last_words: str
    """The error that it stopped with, where its log ends with one."""

    @property
    def tokens(self) -> np.ndarray:
        """[P] tokens read by then, its trunk's included."""
        return self.steps * (self.cell.tokens / self.cell.steps)

    @property
    def own_steps(self) -> int:
        """Updates that it made itself, so far."""
        return int(self.steps[-1]) - (self.cell.branch or 0) if len(self.steps) else 0

    @property
    def flops(self) -> float:
        """FLOPs of its own updates so far: the trunk pays for what its branches share."""
        return self.cell.flops * self.own_steps / self.cell.steps

    @property
    def device(self) -> tuple[int, str]:
        """Number of devices and their kind; on a processor, whose devices may be fakes, the number of processes."""
        if not self.writer:
            return 1, "unknown"
        count, kind = self.writer["devices"].split(" ", 1)
        return (self.writer["processes"] if kind == "cpu" else int(count)), kind


@dataclasses.dataclass(frozen=True)
class Results:
    """A study as it stands."""

    study: Study
    runs: tuple[RunResult, ...]
    fitted: RunTable | None
    """The runs to fit that ended with a finite loss; None where there is none."""
    held_out: RunTable | None
    """The runs to predict, likewise."""
    laws: tuple[Fitted, ...]
    """Laws of the law file, in its order; none where there is no such file."""
    source: TableRecord | None
    """The table that the laws were fitted to."""

    @property
    def stale(self) -> bool:
        """Whether the runs are others now than when the laws were fitted."""
        if self.source is None:
            return False
        table = self.fitted
        if table is not None and self.source.dropped < len(table):
            table = drop_highest(table, self.source.dropped)
        return table is None or table.digest() != self.source.digest

    def __getitem__(self, name: str) -> RunResult:
        return next(run for run in self.runs if run.cell.name == name)


def read_results(folder: epath.PathLike) -> Results:
    """Returns the results in a study's folder.

    Raises:
      UserError: there is no study, or its law file is damaged.
    """
    planned = study.read(folder)
    runs = tuple(_run(folder, cell) for cell in planned.cells)
    path = epath.Path(folder) / law_file.NAME
    laws, source = law_file.read_all(str(path)) if path.exists() else ([], None)
    fitted, held_out = _table(planned, folder, False), _table(planned, folder, True)
    return Results(planned, runs, fitted, held_out, tuple(laws), source)


def _run(folder: epath.PathLike, cell: Cell) -> RunResult:
    run = cells.run_of(folder, cell.name)
    rows = cells.rows_of(folder, cell)
    end = cells.reached(cell, rows)
    first = cell.branch or 0  # a branch may have its trunk's rows before its own
    rows = [row for row in rows if "nll" in row and row["step"] > first]
    state: State = "unfinished" if rows else "not begun"
    if end.ended:
        state = "ended" if math.isfinite(end.loss) else "not finite"
    words = "" if end.ended else _error(cells.last_words(folder, cell))
    steps = np.array([row["step"] for row in rows], np.int64)
    losses = np.array([math.nan if row["nll"] is None else row["nll"] for row in rows], np.float64)
    result = RunResult(cell, state, end.loss, steps, losses, math.nan, _writer(run), words)
    return dataclasses.replace(result, seconds=cells.seconds(rows, first, result.own_steps))


def _writer(run: Run) -> Mapping[str, Any]:
    steps = reading.steps(run.checkpoints)
    path = run.checkpoints / str(steps[-1]) / "record" / provenance.NAME if steps else None
    return json.loads(path.read_text()) if path is not None and path.exists() else {}


def _error(last_line: str) -> str:
    """Returns a process's last line if it is an error, and not, say, a progress bar."""
    is_error = re.match(r"[\w.]*(error|interrupt)", last_line, re.IGNORECASE)
    return last_line.removeprefix("error: ")[:300] if is_error else ""


def _table(planned: Study, folder: epath.PathLike, held_out: bool) -> RunTable | None:
    try:
        return study.table(planned, folder, held_out=held_out)
    except UserError:  # no run has ended, which the report says of each
        return None
