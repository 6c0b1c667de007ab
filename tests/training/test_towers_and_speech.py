"""Runs of two towers and of a speech model: resumed to the bit, on another mesh, killed, by two processes as by one."""

import dataclasses
import time

import jax
import numpy as np
import pytest

import train as command
from tests import processes
from tests.exhaustive import few
from tests.training.runs import evaluations, losses, rows, stopped, train
from transformer.debugging.replay import replay
from transformer.parallel.mesh import MeshConfig
from transformer.training.run import Run

STEPS, SAVED = 12, 4
# Of every update a row, three evaluations and three checkpoints.
SHARED = [
    "--train.steps", str(STEPS), "--train.batch-size", "8", "--train.log-every", "1", "--train.eval-every", str(SAVED),
    "--train.eval-batches", "2", "--checkpoint.every", str(SAVED), "--model.width", "16",
]  # fmt: skip
PRESETS = {
    "clip-shapes": [
        "--model.patch-size", "16", "--model.num-layers", "1", "--model.num-heads", "2", "--model.mlp-width", "32",
        "--model.text-width", "16", "--model.text-layers", "1", "--model.text-heads", "2",
        "--model.text-mlp-width", "32", "--model.projection-width", "8", "--data.flip", "0.5",
    ],
    "whisper-tones": [
        "--model.num-encoder-layers", "1", "--model.num-decoder-layers", "1", "--model.num-encoder-heads", "2",
        "--model.num-decoder-heads", "2", "--model.encoder-mlp-width", "32", "--model.decoder-mlp-width", "32",
    ],
}  # fmt: skip


def flags(name, folder, mesh):
    """The command line of a run in `folder`/run."""
    return [
        name, "--workdir", str(folder / "run"), "--data.cache-dir", str(folder / "cache"), "--mesh.data", str(mesh),
        *SHARED, *PRESETS[name],
    ]  # fmt: skip


@pytest.fixture(scope="module", params=few(PRESETS, "clip-shapes"))
def whole(request, tmp_path_factory):
    """Name -> a run on one device that nothing stopped: its experiment, what it came to, and its folder."""
    folder = tmp_path_factory.mktemp(request.param)
    experiment = command.parse(flags(request.param, folder, 1)).experiment
    return experiment, train(experiment, folder / "run"), folder / "run"


@pytest.mark.exhaustive
def test_a_stopped_run_goes_on_exactly(whole, tmp_path, monkeypatch):
    experiment, result, folder = whole
    stopped(experiment, tmp_path / "run", monkeypatch, after=6)
    assert len(losses(tmp_path / "run")) < STEPS
    again = train(experiment, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(folder)
    assert evaluations(tmp_path / "run") == evaluations(folder)
    assert len(rows(tmp_path / "run")) == len(rows(folder))
    jax.tree.map(np.testing.assert_array_equal, again.params, result.params)


@pytest.mark.exhaustive
def test_a_replay_tells_the_loss_of_rows_that_have_one(whole):
    """A row of two towers, alone, would have a loss of 0: there is nothing to tell it from."""
    experiment, _, folder = whole
    found = replay(Run(folder), 6, alone=False, report=lambda _: None)
    assert found.metrics["loss"] == pytest.approx(losses(folder)[6], rel=1e-6)
    have = {row.loss is not None for row in found.rows}
    assert have == {experiment.objective.sums_over_examples}


@pytest.mark.exhaustive
def test_a_run_goes_on_on_another_mesh(whole, tmp_path, monkeypatch):
    experiment, _, folder = whole
    stopped(experiment, tmp_path / "run", monkeypatch, after=6)
    train(dataclasses.replace(experiment, mesh=MeshConfig(data=2, fsdp=2, tensor=2)), tmp_path / "run")
    np.testing.assert_allclose(list(losses(tmp_path / "run").values()), list(losses(folder).values()), rtol=1e-5)


@pytest.mark.exhaustive
def test_two_processes_that_are_killed_and_come_back_train_as_one(whole, tmp_path):
    experiment, _, folder = whole
    args = [str(processes.ROOT / "train.py"), *flags(experiment.name, tmp_path, 2), "--distributed"]
    sealed = tmp_path / "run" / "checkpoints" / str(SAVED) / "seal.json"
    deadline = time.monotonic() + 300
    with processes.started(args, 2) as killed:  # as soon as there is something to come back to
        while not sealed.exists():
            assert all(process.poll() is None for process in killed)
            assert time.monotonic() < deadline, "no checkpoint"
            time.sleep(0.05)
    ended = processes.run(args, 2, timeout=300)
    assert [process.code for process in ended] == [0, 0], ended[-1].err
    np.testing.assert_allclose(list(losses(tmp_path / "run").values()), list(losses(folder).values()), rtol=1e-5)
    assert list(losses(tmp_path / "run")) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(
        list(evaluations(tmp_path / "run").values()), list(evaluations(folder).values()), rtol=1e-5
    )
