"""Runs that tests make, and what they wrote."""

import contextlib

import pytest
from etils import epath

from transformer.errors import Interrupted
from transformer.training import loop
from transformer.training.interrupt import Now, StopRequest
from transformer.training.metrics import read


def quiet(line: str) -> None:
    pass


def train(experiment, folder):
    return loop.train(experiment, folder, report=quiet)


def rows(folder):
    found = read(epath.Path(folder) / "metrics.jsonl")
    assert not found.damaged
    return found.rows


def losses(folder):
    return {row["step"]: row["loss"] for row in rows(folder) if "loss" in row}


def evaluations(folder):
    return {row["step"]: row["eval_loss"] for row in rows(folder) if "eval_loss" in row}


class StopAfter(StopRequest):
    """As if a signal came during step `steps` of this process."""

    def __init__(self, steps, resume):
        super().__init__(resume)
        self.left = steps

    def check(self):
        self.left -= 1
        if self.left < 0:
            self.signal = "SIGINT"
            raise Now


def stopped(experiment, folder, monkeypatch, after):
    """Trains until a stop."""

    @contextlib.contextmanager
    def stop(*numbers, resume):
        yield StopAfter(after, resume)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_on_signal", stop)
        with pytest.raises(
            Interrupted, match=r"stopped after step \d+ of 12, saved. To go on: python train.py --workdir"
        ):
            train(experiment, folder)
