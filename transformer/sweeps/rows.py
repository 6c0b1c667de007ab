"""Rows: the figures that each run of a sweep ended with, or has come to, for people and other programs."""

import csv
import dataclasses
import io
import json
import math
from typing import Any, Literal

from etils import epath

from transformer.paths import write_file
from transformer.sweeps import cells
from transformer.sweeps.plan import Cell, Sweep, failure
from transformer.training import experiment as experiments


@dataclasses.dataclass(frozen=True)
class Row:
    """One run of a sweep, as it stands."""

    name: str
    state: Literal["waits", "begun", "ended", "failed"]
    values: dict[str, Any]
    """Varied field, dotted -> its value."""
    steps: int
    """Updates so far, as logged."""
    params: int
    """N, all parameters."""
    tokens: int
    """Tokens read so far, of both sides where there are two."""
    flops: float
    """Training FLOPs so far, by structure (the convention `exact`)."""
    seconds: float
    """Time that its updates took, without compiling, evaluating and saving; NaN where none was timed."""
    train_loss: float
    """Last logged training loss, nats a target; NaN where there is none, or it was not finite."""
    eval_loss: float
    """Validation loss after the last update; NaN where the run has not ended, or it was not finite."""

    @property
    def diverged(self) -> bool:
        """Whether it ended with a loss that is not finite."""
        return self.state == "ended" and math.isnan(self.eval_loss)


def rows(sweep: Sweep, folder: epath.PathLike) -> list[Row]:
    """Returns a row for each cell, in the sweep's order."""
    return [_row(folder, cell) for cell in sweep.cells]


def _row(folder: epath.PathLike, cell: Cell) -> Row:
    experiment = experiments.read(cells.experiment_path(folder, cell))
    metrics = cells.rows_of(folder, cell)
    end = cells.reached(cell, metrics)
    length, target_length = experiment.lengths
    tokens = end.step * experiment.train.batch_size * experiment.lengths.total
    state = "ended" if end.ended else "failed" if failure(folder, cell) else "begun" if metrics else "waits"
    return Row(
        name=cell.name,
        state=state,
        values=cell.values,
        steps=end.step,
        params=experiment.model.num_params(),
        tokens=tokens,
        flops=tokens * experiment.model.flops_per_token(length, target_length),
        seconds=cells.seconds([row for row in metrics if "nll" in row], 0, end.step),
        train_loss=end.training_loss,
        eval_loss=end.loss,
    )


def write_csv(rows: list[Row], fields: tuple[str, ...], folder: epath.PathLike) -> epath.Path:
    """Writes SWEEP/runs.csv; returns its path. A cell is empty where there is no figure, `nan` where it diverged."""
    figures = [field.name for field in dataclasses.fields(Row)]
    figures.remove("values")
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*figures[:2], *fields, *figures[2:]])
    for row in rows:
        varied = [_cell(row.values[field]) for field in fields]
        numbers = [_figure(row, name) for name in figures]
        table.writerow([*numbers[:2], *varied, *numbers[2:]])
    path = epath.Path(folder) / "runs.csv"
    write_file(path, text.getvalue())
    return path


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _figure(row: Row, name: str) -> str:
    value = getattr(row, name)
    if isinstance(value, float) and math.isnan(value):
        return "nan" if name == "eval_loss" and row.diverged else ""
    return str(value)
