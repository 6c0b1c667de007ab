"""A run that branches from another's checkpoint is the run that would have got there by itself."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from tests.training.runs import losses, train
from transformer.checkpoint import to_json
from transformer.checkpoint.rewrite import fork
from transformer.checkpoint.stream import read_leaves
from transformer.checkpoint.verifying import verify
from transformer.errors import UserError
from transformer.models import architecture_to_dict
from transformer.training import experiment as experiments


def record(experiment):
    return {
        "experiment.json": to_json(experiments.to_dict(experiment)),
        "architecture.json": to_json(architecture_to_dict(experiment.model)),
    }


@pytest.mark.exhaustive
def test_a_trunk_cools_down_to_what_a_short_run_is(experiment, tmp_path):
    optimizer = dataclasses.replace(experiment.optimizer, schedule="wsd", cooldown_fraction=0.25, final_fraction=0.0)
    long = dataclasses.replace(
        experiment, optimizer=optimizer, checkpoint=dataclasses.replace(experiment.checkpoint, every=99, at=(6,))
    )
    short = dataclasses.replace(
        long, train=dataclasses.replace(long.train, steps=8), checkpoint=dataclasses.replace(long.checkpoint, at=())
    )
    train(long, tmp_path / "trunk")
    trunk = epath.Path(tmp_path / "trunk" / "checkpoints")
    assert sorted(path.name for path in trunk.iterdir()) == ["12", "6"]  # the one that was asked for is kept
    place = fork(trunk / "6", tmp_path / "branch", record(short))
    assert verify(place) == []
    assert fork(trunk / "6", tmp_path / "branch", record(short)) == place  # again: nothing changes
    train(short, tmp_path / "branch")
    train(short, tmp_path / "alone")
    assert losses(tmp_path / "branch") == losses(tmp_path / "alone")
    ends = [epath.Path(tmp_path / name / "checkpoints" / "8") for name in ("branch", "alone")]
    paths = ["backbone/token_embedding/embedding", "backbone/final_norm/scale"]
    one, other = (read_leaves(end, "params", paths) for end in ends)
    for path in paths:
        np.testing.assert_array_equal(one[path], other[path])


@pytest.mark.exhaustive
def test_what_is_there_is_not_written_over(experiment, tmp_path):
    train(experiment, tmp_path / "trunk")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="full exists and is not empty"):
        fork(epath.Path(tmp_path / "trunk" / "checkpoints" / "12"), tmp_path / "full", record(experiment))
