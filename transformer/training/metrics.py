"""Metrics of a run: a row of JSON for each logged step, and TensorBoard."""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from transformer.checkpoint import write_atomically
from transformer.cluster.agreement import own_index
from transformer.paths import errors_at
from transformer.training import uploaded
from transformer.training.run import Run


class MetricsLog:
    """Appends to `metrics.jsonl` and `tensorboard/`. A context manager.

    Rows past the step that a run resumes from are dropped first: they will be written again. So is an evaluation at
    that step, if the run evaluates first: a kill came after it was made and before it was saved. Only the leading
    process of several writes. `report` is called with a line if the file is damaged; its old content is kept beside it.
    """

    def __init__(self, run: Run, resume_from: int, *, evaluates_first: bool, report: Callable[[str], None]):
        self.is_lead = own_index() == 0
        if not self.is_lead:
            return
        self._path = run.metrics
        with errors_at(self._path):
            _drop_rows(run.metrics, resume_from, evaluates_first=evaluates_first, report=report)
            self._file = uploaded.opened(run.metrics)
            purge_step = resume_from + 1 if resume_from else None
            self._board = uploaded.event_writer(run.tensorboard, purge_step=purge_step)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.is_lead:
            self._file.close()
            self._board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one row. A value that is not finite is written as null, since JSON has no NaN."""
        if not self.is_lead:
            return
        row = {"step": step} | {name: _plain(value) for name, value in values.items()}
        with errors_at(self._path):
            self._file.write(f"{json.dumps(row)}\n".encode())
        self.draw(step, values)

    def draw(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values for TensorBoard alone."""
        for name, value in values.items() if self.is_lead else ():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Makes the rows visible to readers and safe from a kill, as local rows always are."""
        if self.is_lead:
            self._file.flush()


@dataclasses.dataclass(frozen=True)
class Rows:
    """The content of a `metrics.jsonl`."""

    rows: list[dict[str, Any]]
    """The whole rows: objects of numbers, with a `step`."""
    damaged: list[int]
    """Numbers, from 1, of the lines that are no row or hold something beside it, except a last line cut by a kill."""

    def notice(self, path: epath.Path) -> str:
        """Returns a line for people about what is lost."""
        shown = ", ".join(map(str, self.damaged[:5]))
        more = f" and {len(self.damaged) - 5} more" if len(self.damaged) > 5 else ""
        lines = f"line {shown}{more} is" if len(self.damaged) == 1 else f"{len(self.damaged)} lines ({shown}{more}) are"
        return f"{path}: {lines} damaged; the {len(self.rows)} whole rows are kept"


def read(path: epath.Path) -> Rows:
    """Returns the rows of a `metrics.jsonl`, whatever else is in it."""
    rows, damaged = [], []
    *lines, last = uploaded.read(path).split(b"\n")
    for number, line in enumerate(lines, start=1):
        row = _row(line.strip(b"\0 \r"))
        if row is not None:
            rows.append(row)
        if row is None or b"\0" in line:
            damaged.append(number)
    row = _row(last)  # whole, if only its end of line is missing
    return Rows(rows if row is None else [*rows, row], damaged)


def read_rows(path: epath.Path, report: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Returns the whole rows of a `metrics.jsonl`; calls `report` (by default, prints) with a line if any are lost."""
    contents = read(path)
    if contents.damaged:
        (report or _say_once)(contents.notice(path))
    return contents.rows


@functools.cache  # a file is read again and again while people look at a run
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def _row(line: bytes) -> dict[str, Any] | None:
    """Returns the row in a line; None if there is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    numbers = all(value is None or isinstance(value, int | float) for value in row.values())
    return row if numbers else None


def _drop_rows(path: epath.Path, step: int, *, evaluates_first: bool, report: Callable[[str], None]) -> None:
    if not path.exists():
        return
    contents = read(path)
    if contents.damaged:
        number = 1
        while (aside := path.parent / f"{path.name}.damaged-{number}").exists():
            number += 1
        write_atomically(aside, uploaded.read(path))
        report(f"{contents.notice(path)}, and the file as it was is {aside.name}")
    rows = [row for row in contents.rows if row["step"] <= step]
    if evaluates_first:
        rows = [row for row in rows if row["step"] < step or "eval_loss" not in row]
    uploaded.replace(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _plain(value: float) -> float | None:
    number = float(value)
    return number if abs(number) < float("inf") else None
