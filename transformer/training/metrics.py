"""Where measurements go: a row of JSON a logged step, and TensorBoard."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from transformer.training import uploaded
from transformer.training.run import Run


class MetricsLog:
    """Appends to `metrics.jsonl` and `tensorboard/`. A context manager.

    Rows past the step that a run resumes from are dropped first: they will be written again. So is an evaluation at
    that step, if it is owed: a kill came after it was made and before it was saved. Only the leading process of
    several writes.
    """

    def __init__(self, run: Run, resume_from: int, *, owed: bool, lead: bool):
        self.lead = lead
        if not lead:
            return
        # tensorboardX brings protobuf: half a second that `--help` need not wait for.
        from tensorboardX import SummaryWriter

        _drop_rows(run.metrics, resume_from, owed=owed)
        self._file = uploaded.opened(run.metrics)
        board = uploaded.board_folder(run.tensorboard)
        self._board = SummaryWriter(board, purge_step=resume_from + 1 if resume_from else None)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.lead:
            self._file.close()
            self._board.close()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one row. A value that is not finite is written as null, for JSON has no NaN."""
        if not self.lead:
            return
        row = {"step": step} | {name: _plain(value) for name, value in values.items()}
        self._file.write(f"{json.dumps(row)}\n".encode())
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Has the rows where a reader finds them, and where a kill does not reach them; local ones always are."""
        if self.lead:
            self._file.flush()


def read_rows(path: epath.Path) -> list[dict[str, Any]]:
    """Returns the rows of a `metrics.jsonl`; a last line cut short by a kill is left out."""
    rows = []
    for line in uploaded.read(path).decode().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _drop_rows(path: epath.Path, step: int, *, owed: bool) -> None:
    if not path.exists():
        return
    rows = [row for row in read_rows(path) if row["step"] <= step]
    if owed:
        rows = [row for row in rows if row["step"] < step or "eval_loss" not in row]
    uploaded.replace(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _plain(value: float) -> float | None:
    number = float(value)
    return number if abs(number) < float("inf") else None
