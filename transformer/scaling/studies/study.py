"""Study: runs that are planned together, so that a law can be fitted to what they come to.

STUDY/study.json         the cells, by which conventions they were counted
STUDY/experiments/       what each of them trains
STUDY/runs/NAME/         an ordinary run; what it says is in STUDY/logs/NAME.log
STUDY/runs.csv           a row for each run that has ended: what `fit` reads
STUDY/law.json           the fitted laws
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cattrs
import numpy as np
from etils import epath

from transformer.checkpoint import to_json, write_atomically
from transformer.errors import UserError
from transformer.scaling.laws.table import RunTable
from transformer.training import experiment as experiments
from transformer.training.experiment import Experiment
from transformer.training.metrics import read_rows
from transformer.training.run import Run

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Cell:
    """One planned run."""

    name: str
    """Its folder's name."""
    budget: float
    """C that it was planned for, FLOPs."""
    params: int
    """N, by the study's count."""
    tokens: int
    """D that it reads."""
    flops: float
    """C that it takes, by the study's convention."""
    steps: int
    """Updates."""
    seed: int
    """Of parameters, order and dropout."""
    held_out: bool = False
    """Whether it is left out of the fit, to be predicted."""
    trunk: str | None = None
    """The longer run of the same model that this one is cooled down from; None: it starts by itself."""
    branch: int | None = None
    """The update of the trunk after which it begins."""

    @property
    def own_steps(self) -> int:
        """Updates that it makes itself."""
        return self.steps - (self.branch or 0)


@dataclasses.dataclass(frozen=True)
class Study:
    """What was planned."""

    preset: str
    convention: str
    """How C is counted, one of `conventions.CONVENTIONS`."""
    size: str
    """What N counts, one of `conventions.SIZES`."""
    cells: tuple[Cell, ...]
    """In the order in which they are to be run: a trunk before what branches from it."""
    version: int = VERSION

    def __getitem__(self, name: str) -> Cell:
        for cell in self.cells:
            if cell.name == name:
                return cell
        raise UserError(f"the study has no run {name}; it has: {', '.join(cell.name for cell in self.cells)}")


class Outcome(NamedTuple):
    """How far a run is, from its metrics."""

    step: int
    """Its last logged update."""
    loss: float
    """Of validation after the last update, nats; NaN where it has not ended, or was not finite."""
    ended: bool
    training_loss: float
    """The last logged one."""
    tokens_per_second: float


def write(study: Study, folder: epath.PathLike, planned: Mapping[str, Experiment]) -> None:
    """Makes a study's folder, of the cells and the experiment of each."""
    place = epath.Path(folder) / "experiments"
    place.mkdir(parents=True, exist_ok=True)
    for cell in study.cells:
        experiment = experiments.absolute(planned[cell.name])
        write_atomically(experiment_path(folder, cell), to_json(experiments.to_dict(experiment)))
    write_atomically(epath.Path(folder) / "study.json", to_json(dataclasses.asdict(study)))


def read(folder: epath.PathLike) -> Study:
    """Returns a folder's study; raises UserError where there is none, or another version's."""
    path = epath.Path(folder) / "study.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        if record.get("version") != VERSION:
            raise UserError(f"{path}: version {record.get('version')} of a study, this program reads {VERSION}")
        return cattrs.Converter(forbid_extra_keys=True).structure(record, Study)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file: plan a study first, python tools/scaling.py plan {folder}") from None
    except (ValueError, KeyError, AttributeError, cattrs.BaseValidationError) as error:
        raise UserError(f"{path}: not a study: {' '.join(str(error).split())}") from error


def experiment_path(folder: epath.PathLike, cell: Cell) -> epath.Path:
    """Returns where a cell's experiment is planned."""
    return epath.Path(folder) / "experiments" / f"{cell.name}.json"


def log_path(folder: epath.PathLike, cell: Cell) -> epath.Path:
    """Returns where what a cell's process says is kept."""
    return epath.Path(folder) / "logs" / f"{cell.name}.log"


def run_of(folder: epath.PathLike, name: str) -> Run:
    """Returns the run of a cell."""
    return Run(epath.Path(folder) / "runs" / name)


def outcome(folder: epath.PathLike, cell: Cell) -> Outcome:
    """Returns how far a cell's run is."""
    return reached(cell, rows_of(folder, cell))


def rows_of(folder: epath.PathLike, cell: Cell) -> list[dict[str, Any]]:
    """Returns the metrics of a cell's run; none where it has not begun."""
    path = run_of(folder, cell.name).metrics
    return read_rows(path) if path.exists() else []


def reached(cell: Cell, rows: Sequence[Mapping[str, Any]]) -> Outcome:
    """Returns how far a cell's run is, by the rows of its metrics."""
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


def table(study: Study, folder: epath.PathLike, *, held_out: bool = False) -> RunTable:
    """Returns the runs that have ended: those to fit, or those that were held out.

    A loss that is not finite is left out: `diverged` names such runs.

    Raises:
      UserError: there is none.
    """
    found = [(cell, outcome(folder, cell)) for cell in study.cells if cell.held_out == held_out]
    ended = [(cell, came.loss) for cell, came in found if came.ended and math.isfinite(came.loss)]
    if not ended:
        raise UserError(f"{folder}: no run has ended yet: python tools/scaling.py run {folder}")
    cells, losses = zip(*ended, strict=True)
    return RunTable(
        params=np.array([cell.params for cell in cells], np.float64),
        tokens=np.array([cell.tokens for cell in cells], np.float64),
        loss=np.array(losses, np.float64),
        flops=np.array([cell.flops for cell in cells], np.float64),
        names=tuple(cell.name for cell in cells),
        convention=f"{study.convention}, N {study.size}",
    )


def diverged(study: Study, folder: epath.PathLike) -> list[str]:
    """Returns the names of the runs that ended with a loss that is not finite."""
    came = [(cell.name, outcome(folder, cell)) for cell in study.cells]
    return [name for name, one in came if one.ended and not math.isfinite(one.loss)]


def write_rows(study: Study, folder: epath.PathLike) -> None:
    """Writes runs.csv: a row for each run that has ended, for people and other programs."""
    lines = ["name,params,tokens,flops,loss,budget,steps,seed,held_out"]
    for cell in study.cells:
        came = outcome(folder, cell)
        if came.ended:
            numbers = cell.params, cell.tokens, cell.flops, came.loss, cell.budget, cell.steps, cell.seed
            lines.append(",".join([cell.name, *map(repr, numbers), str(cell.held_out).lower()]))
    write_atomically(epath.Path(folder) / "runs.csv", "".join(f"{line}\n" for line in lines).encode())


def last_words(folder: epath.PathLike, cell: Cell) -> str:
    """Returns the last line that a cell's process wrote; an empty one where it wrote none."""
    path = log_path(folder, cell)
    said = path.read_bytes().decode(errors="replace").splitlines() if path.exists() else []
    return next((line.strip() for line in reversed(said) if line.strip()), "")


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
