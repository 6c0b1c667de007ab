"""Runs in an object store: the same files, the same numbers, and nothing half-written is taken for whole."""

import pytest
from etils import epath

from tests.training.runs import evaluations, losses, rows, stopped, train
from transformer.checkpoint import Damaged, find
from transformer.checkpoint.rewrite import average
from transformer.checkpoint.verifying import verify
from transformer.errors import UserError
from transformer.inference.restored import restore
from transformer.training import goodput


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(experiment, folder)
    return folder


@pytest.fixture
def run(experiment, store, monkeypatch):
    """A run that was stopped once."""
    folder = epath.Path("gs://bucket/run")
    stopped(experiment, folder, monkeypatch, after=7)
    yield folder
    folder.rmtree()


def test_goes_on_exactly(experiment, run, whole, store):
    result = train(experiment, run)
    assert result.step == 12
    assert losses(run) == losses(whole)
    assert evaluations(run) == evaluations(whole)
    assert [row["step"] for row in rows(run)] == [row["step"] for row in rows(whole)]
    [first, second] = sorted((store / "run" / "tensorboard").iterdir())  # of the two processes that it was, as it were
    assert min(first.stat().st_size, second.stat().st_size) > 1000
    assert [(start.first, start.ended) for start in goodput.read(run / "goodput")] == [(0, True), (6, True)]
    assert restore(str(run)).architecture == experiment.model
    assert verify(find(run)) == []


def test_what_is_not_complete_does_not_count(experiment, run, whole):
    """A kill while the newest one was written: everything is there but the file that comes last."""
    (find(run) / "commit_success.txt").unlink()
    assert find(run).name == "4"
    train(experiment, run)
    assert losses(run) == losses(whole)
    assert evaluations(run) == evaluations(whole)


def test_damage_is_noticed(experiment, run, store):
    """By the values: the store guards its files' contents, so these are sealed by their sizes alone."""
    record = store / "run" / "checkpoints" / find(run).name / "record" / "digests.json"
    record.write_bytes(record.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(Damaged, match="gs://bucket/run/checkpoints/6: damaged: the values of .* --checkpoint.fallback"):
        train(experiment, run)


def test_tools_write_there(run):
    average([find(run), find(run)], epath.Path("gs://bucket/average"))
    assert verify(find("gs://bucket/average")) == []


def test_a_store_that_cannot_be_reached():
    with pytest.raises(UserError, match=r"s3://bucket/run cannot be reached: .*\[s3\]"):
        find("s3://bucket/run")
