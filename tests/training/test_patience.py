"""Early stopping: counted by the figure that tells the best checkpoint, also across starts."""

import dataclasses
import json

import pytest

from tests.training import runs
from transformer.checkpoint import CheckpointConfig
from transformer.errors import UserError
from transformer.training.evaluation import Evaluation
from transformer.training.patience import Patience

ACCURACY = CheckpointConfig(best="eval_accuracy", best_is="highest")


def evaluation(accuracy):
    return Evaluation(loss=1.0, targets=1.0, metrics={"accuracy": accuracy})


def test_it_is_over_after_so_many_that_are_no_better_and_begins_anew_with_a_better_one():
    patience = Patience(2, ACCURACY)
    over = []
    for accuracy in (0.5, 0.5, 0.6, 0.6, 0.4, 0.9):
        over.append(patience.is_over)
        patience.evaluated(evaluation(accuracy))
    assert over == [False] * 5 + [True]
    assert Patience(2, CheckpointConfig(), [3.0, 2.0, 2.5, 2.0]).is_over  # the lowest loss
    assert not Patience(None, ACCURACY, [0.5] * 9).is_over


def test_a_figure_that_there_is_not_is_refused():
    with pytest.raises(UserError, match="--checkpoint.best eval_accuracy: .* which are eval_loss, eval_f1"):
        Patience(1, ACCURACY).evaluated(Evaluation(loss=1.0, targets=1.0, metrics={"f1": 1.0}))


@pytest.fixture
def still(experiment):
    """A run whose evaluations are all alike: it learns nothing."""
    optimizer = dataclasses.replace(experiment.optimizer, learning_rate=1e-30, weight_decay=0.0)
    return dataclasses.replace(
        experiment, optimizer=optimizer, train=dataclasses.replace(experiment.train, steps=12, patience=1)
    )


def test_a_run_ends_early_with_its_state_saved_and_stays_so(still, tmp_path):
    said = []
    result = runs.loop.train(still, tmp_path / "run", report=said.append)
    assert (result.step, sorted(runs.evaluations(tmp_path / "run"))) == (8, [4, 8])
    assert (tmp_path / "run" / "checkpoints" / "8").exists()
    [line] = [line for line in said if line.startswith("stopped")]
    assert line.startswith("stopped after step 8 of 12: eval_loss was no better than ")
    assert runs.train(still, tmp_path / "run").step == 8
    on = dataclasses.replace(still, train=dataclasses.replace(still.train, patience=None))
    assert runs.train(on, tmp_path / "run").step == 12


def test_evaluations_of_earlier_starts_count(still, tmp_path, monkeypatch):
    runs.stopped(still, tmp_path / "run", monkeypatch, after=5)
    assert runs.train(still, tmp_path / "run").step == 8
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "eval_loss" in row] == [4, 8]
