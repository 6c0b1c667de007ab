"""Cells: the planned runs of a study or a sweep, and the folder that they share.

FOLDER/experiments/NAME.json   the experiment of a cell
FOLDER/runs/NAME/              its run, an ordinary one
FOLDER/logs/NAME.log           what its processes wrote
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import cattrs
from etils import epath

from transformer.checkpoint import to_json, write_atomically
from transformer.errors import UserError, choice_hint
from transformer.training import experiment as experiments
from transformer.training.experiment import Experiment
from transformer.training.metrics import read_rows
from transformer.training.run import Run

T = TypeVar("T")


class PlannedRun(Protocol):
    """A cell, as far as making its run needs to know it."""

    @property
    def name(self) -> str:
        """Name of its folder."""
        ...

    @property
    def steps(self) -> int:
        """Updates, those of its trunk included."""
        ...

    @property
    def trunk(self) -> str | None:
        """The longer run from whose checkpoint this one begins; None: it starts by itself."""
        ...

    @property
    def branch(self) -> int | None:
        """The update of the trunk after which it begins."""
        ...

    @property
    def own_steps(self) -> int:
        """Number of updates that it makes itself."""
        ...


Cell = TypeVar("Cell", bound=PlannedRun)


class Outcome(NamedTuple):
    """The progress of a run, from its metrics."""

    step: int
    """Its last logged update."""
    loss: float
    """Validation loss after the last update, nats; NaN where the run has not ended, or the loss was not finite."""
    ended: bool
    training_loss: float
    """Last logged training loss, nats."""
    tokens_per_second: float


def cell_named(cells: Sequence[Cell], name: str, noun: str) -> Cell:
    """Returns the cell of a name; raises UserError where `noun`, such as "the study", has none."""
    for cell in cells:
        if cell.name == name:
            return cell
    raise UserError(f"{noun} has no run {name}: {choice_hint(name, [cell.name for cell in cells])}")


def read_plan(path: epath.Path, kind: type[T], *, version: int, noun: str, hint: str) -> T:
    """Returns the record of a planned study or sweep.

    Args:
      path: its JSON file.
      kind: the dataclass that it is a record of.
      version: of the records that this program reads.
      noun: what it is, for messages: "a study".
      hint: what to do where there is none.

    Raises:
      UserError: there is none, or it is one of another version, or no such record.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        if record.get("version") != version:
            raise UserError(f"{path}: version {record.get('version')} of {noun}, this program reads {version}")
        return cattrs.Converter(forbid_extra_keys=True).structure(record, kind)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: {hint}") from None
    except (ValueError, KeyError, AttributeError, cattrs.BaseValidationError) as error:
        raise UserError(f"{path}: not {noun}: {' '.join(str(error).split())}") from error


def write_experiments(folder: epath.PathLike, cells: Iterable[PlannedRun], planned: Mapping[str, Experiment]) -> None:
    """Writes the experiments of cells, which `planned` has by name."""
    (epath.Path(folder) / "experiments").mkdir(parents=True, exist_ok=True)
    for cell in cells:
        experiment = experiments.absolute(planned[cell.name])
        write_atomically(experiment_path(folder, cell), to_json(experiments.to_dict(experiment)))


def experiment_path(folder: epath.PathLike, cell: PlannedRun) -> epath.Path:
    """Returns the path of a cell's planned experiment."""
    return epath.Path(folder) / "experiments" / f"{cell.name}.json"


def log_path(folder: epath.PathLike, cell: PlannedRun) -> epath.Path:
    """Returns the path of the log of a cell's process."""
    return epath.Path(folder) / "logs" / f"{cell.name}.log"


def run_of(folder: epath.PathLike, name: str) -> Run:
    """Returns the run of a cell."""
    return Run(epath.Path(folder) / "runs" / name)


def outcome(folder: epath.PathLike, cell: PlannedRun) -> Outcome:
    """Returns the progress of a cell's run."""
    return reached(cell, rows_of(folder, cell))


def rows_of(folder: epath.PathLike, cell: PlannedRun) -> list[dict[str, Any]]:
    """Returns the metrics of a cell's run; none where it has not begun."""
    path = run_of(folder, cell.name).metrics
    return read_rows(path) if path.exists() else []


def reached(cell: PlannedRun, rows: Sequence[Mapping[str, Any]]) -> Outcome:
    """Returns the progress of a cell's run, from the rows of its metrics."""
    trained = [row for row in rows if "nll" in row]
    ends = [row["eval_loss"] for row in rows if "eval_loss" in row and row["step"] == cell.steps]
    last = trained[-1] if trained else {}
    return Outcome(
        last.get("step", 0),
        _number(ends[-1] if ends else None),
        bool(ends),
        _number(last.get("nll")),
        _number(last.get("tokens_per_second")),
    )


def seconds(rows: Sequence[Mapping[str, Any]], before: int, own: int) -> float:
    """Returns the seconds that a run's updates took; NaN where none was timed. Compiling, evaluating and saving are
    not in it.

    Args:
      rows: its rows of training.
      before: number of updates that it began with.
      own: number of updates that it made itself; those that were not timed, such as the first, count as average.
    """
    timed, total = 0, 0.0
    for row in rows:
        if row.get("step_seconds") is not None:
            timed += row["step"] - before
            total += row["step_seconds"] * (row["step"] - before)
        before = row["step"]
    return total / timed * own if timed else math.nan


def last_words(folder: epath.PathLike, cell: PlannedRun) -> str:
    """Returns the last line that a cell's process wrote; empty where it wrote none."""
    path = log_path(folder, cell)
    lines = path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
