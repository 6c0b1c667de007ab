"""Study: runs that are planned together, so that a law can be fitted to their losses.

STUDY/study.json         the cells, and the conventions that they were counted by
STUDY/experiments/       the experiment of each cell
STUDY/runs/NAME/         an ordinary run, whose output is in STUDY/logs/NAME.log
STUDY/runs.csv           a row for each run that has ended
STUDY/law.json           the fitted laws
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from etils import epath

from transformer.checkpoint import to_json, write_atomically
from transformer.errors import UserError
from transformer.scaling.laws.table import RunTable
from transformer.sweeps.cells import cell_named, outcome, read_plan, write_experiments
from transformer.training.experiment import Experiment

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Cell:
    """One planned run."""

    name: str
    """Name of its folder."""
    budget: float
    """C that it was planned for, in FLOPs."""
    params: int
    """N, by the study's count."""
    tokens: int
    """D, the tokens that it reads."""
    flops: float
    """C that it costs, by the study's convention."""
    steps: int
    """Updates."""
    seed: int
    """Seed of parameters, order and dropout."""
    held_out: bool = False
    """Whether it is left out of the fit, to be predicted."""
    trunk: str | None = None
    """The longer run of the same model that this one is cooled down from; None: it starts by itself."""
    branch: int | None = None
    """The update of the trunk after which it begins."""

    @property
    def own_steps(self) -> int:
        """Number of updates that it makes itself."""
        return self.steps - (self.branch or 0)


@dataclasses.dataclass(frozen=True)
class Study:
    """The planned cells, and how they are counted."""

    preset: str
    convention: str
    """Convention that C is counted by, one of `conventions.CONVENTIONS`."""
    size: str
    """Convention that N is counted by, one of `conventions.SIZES`."""
    cells: tuple[Cell, ...]
    """Cells in the order in which they are run: a trunk before its branches."""
    version: int = VERSION

    def __getitem__(self, name: str) -> Cell:
        return cell_named(self.cells, name, "the study")


def write(study: Study, folder: epath.PathLike, planned: Mapping[str, Experiment]) -> None:
    """Writes a study's folder: its cells and their experiments."""
    write_experiments(folder, study.cells, planned)
    write_atomically(epath.Path(folder) / "study.json", to_json(dataclasses.asdict(study)))


def read(folder: epath.PathLike) -> Study:
    """Returns a folder's study; raises UserError where there is none, or one of another version."""
    hint = f"plan a study first, python tools/scaling.py plan {folder}"
    return read_plan(epath.Path(folder) / "study.json", Study, version=VERSION, noun="a study", hint=hint)


def table(study: Study, folder: epath.PathLike, *, held_out: bool = False) -> RunTable:
    """Returns the table of the runs that have ended: the runs to fit, or the held-out runs.

    Runs whose loss is not finite are left out: `diverged` names them.

    Raises:
      UserError: there is none.
    """
    outcomes = [(cell, outcome(folder, cell)) for cell in study.cells if cell.held_out == held_out]
    ended = [(cell, end.loss) for cell, end in outcomes if end.ended and math.isfinite(end.loss)]
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
    outcomes = [(cell.name, outcome(folder, cell)) for cell in study.cells]
    return [name for name, end in outcomes if end.ended and not math.isfinite(end.loss)]


def write_rows(study: Study, folder: epath.PathLike) -> None:
    """Writes runs.csv: a row for each run that has ended, for people and other programs."""
    lines = ["name,params,tokens,flops,loss,budget,steps,seed,held_out"]
    for cell in study.cells:
        end = outcome(folder, cell)
        if end.ended:
            numbers = cell.params, cell.tokens, cell.flops, end.loss, cell.budget, cell.steps, cell.seed
            lines.append(",".join([cell.name, *map(repr, numbers), str(cell.held_out).lower()]))
    write_atomically(epath.Path(folder) / "runs.csv", "".join(f"{line}\n" for line in lines).encode())
