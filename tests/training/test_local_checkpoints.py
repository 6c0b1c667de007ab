"""Runs with local checkpoints, that end before their time: they go on from the newest that is whole, and exactly."""

import dataclasses
import random
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from tests.training.runs import evaluations, losses, rows
from tools import crash
from transformer.checkpoint import CheckpointConfig
from transformer.parallel.mesh import MeshConfig
from transformer.training import loop, saving


class Killed(Exception):
    """What ends a run in the middle of a step, with nothing saved."""


def local(experiment, folder, **changes):
    config = CheckpointConfig(every=5, local_dir=str(folder / "disk"), local_every=3, local_every_minutes=None)
    return dataclasses.replace(experiment, checkpoint=dataclasses.replace(config, **changes))


def train(experiment, folder):
    """Returns the result and the lines that were reported."""
    said = []
    return loop.train(experiment, folder, report=said.append), said


def killed(experiment, folder, monkeypatch, step):
    """Trains until a kill before update number `step`; returns the lines."""
    update, said = loop.Updates._update, []

    def dies(self, *args):
        if self.step + 1 == step:
            for store in (self._saver._checkpoints, self._saver._local):  # what was begun in time is complete
                while store is not None and store.outcome(wait=True) is not None:
                    pass
            raise Killed
        update(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Updates, "_update", dies)
        with pytest.raises(Killed):
            loop.train(experiment, folder, report=said.append)
    return said


def disk(folder):
    return sorted(str(path.relative_to(folder / "disk")).partition("/")[2] for path in (folder / "disk").glob("*/*/*"))


def restored(said):
    """The lines about restoring; in a log, the progress bar of a process that was killed may stand before one."""
    found = (re.search("(restored step|local checkpoints are|the local checkpoint of) .*", line) for line in said)
    return [match[0] for match in found if match]


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    """The run that nobody killed, which keeps no local checkpoints."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return loop.train(experiment, folder, report=lambda line: None), folder


def same(result, folder, whole):
    assert losses(folder) == losses(whole[1])
    assert evaluations(folder) == evaluations(whole[1])
    assert len(rows(folder)) == len(rows(whole[1]))
    jax.tree.map(np.testing.assert_array_equal, result.params, whole[0].params)


def test_a_killed_run_goes_on_exactly_from_its_local_checkpoint(experiment, whole, tmp_path, monkeypatch):
    """Steps: local 3, durable 5, local 6, killed; local 9, durable 10, killed; local 12 is the durable last one's."""
    run, experiment = tmp_path / "run", local(experiment, tmp_path)
    assert restored(killed(experiment, run, monkeypatch, 9)) == []
    assert disk(tmp_path) == ["process-0-of-1/6"]
    said = killed(experiment, run, monkeypatch, 10)
    assert [line.partition(" in ")[0] for line in said if "restored" in line] == [
        "restored step 6 from local checkpoints"
    ]
    assert " s (durable: step 5)" in restored(said)[0]
    said = killed(experiment, run, monkeypatch, 12)
    assert restored(said)[0].startswith("restored step 9 from local checkpoints")
    result, said = train(experiment, run)
    assert restored(said)[0].startswith("restored step 10 from the durable checkpoint in ")
    same(result, run, whole)
    assert list((tmp_path / "disk").iterdir()) == []  # the run has ended well
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"10", "12"}


@pytest.mark.exhaustive
def test_the_last_step_is_saved_durably_by_the_next_start(experiment, whole, tmp_path, monkeypatch):
    """A kill at the end, between a local save and the durable one: there is nothing left to train."""
    run, experiment = tmp_path / "run", local(experiment, tmp_path, local_every=12)

    def dies(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(saving.Saver, "finish", dies)
        with pytest.raises(Killed):
            train(experiment, run)
    assert disk(tmp_path) == ["process-0-of-1/12"]
    result, said = train(experiment, run)
    assert restored(said)[0].startswith("restored step 12 from local checkpoints")
    same(result, run, whole)
    assert (run / "checkpoints" / "12").exists()
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.exhaustive
def test_a_damaged_one_or_none_gives_way_to_the_durable_one(experiment, whole, tmp_path, monkeypatch):
    run, experiment = tmp_path / "run", local(experiment, tmp_path)
    killed(experiment, run, monkeypatch, 8)
    path = next((tmp_path / "disk").glob("*/*/6/opt_state/0-0.bin"))
    path.write_bytes(bytes(len(path.read_bytes())))
    damaged, durable = restored(killed(experiment, run, monkeypatch, 8))
    assert damaged == f"the local checkpoint of step 6 is not used: {path}: its content changed"
    assert durable.startswith("restored step 5 from the durable checkpoint")
    shutil.rmtree(tmp_path / "disk")
    result, said = train(experiment, run)
    assert [line.partition(" in ")[0] for line in restored(said)] == ["restored step 5 from the durable checkpoint"]
    same(result, run, whole)


@pytest.mark.exhaustive
def test_on_another_mesh_the_durable_one_is_restored(experiment, whole, tmp_path, monkeypatch):
    run, experiment = tmp_path / "run", local(experiment, tmp_path)
    killed(experiment, run, monkeypatch, 8)
    result, said = train(dataclasses.replace(experiment, mesh=MeshConfig(data=2)), run)
    assert restored(said)[0] == "local checkpoints are not used: step 6: it is of another mesh"
    assert restored(said)[1].startswith("restored step 5 from the durable checkpoint")
    assert list(losses(run)) == list(losses(whole[1]))
    np.testing.assert_allclose(list(losses(run).values()), list(losses(whole[1]).values()), atol=1e-5)
    assert result.step == 12


@pytest.mark.exhaustive
def test_a_start_without_the_flag_cuts_off_what_was_ahead(experiment, whole, tmp_path, monkeypatch):
    """Its rows of metrics.jsonl after step 5 are written anew; step 6 of the start before has others behind it."""
    run, experiment = tmp_path / "run", local(experiment, tmp_path)
    killed(experiment, run, monkeypatch, 8)
    assert restored(killed(local(experiment, tmp_path, local_dir=None), run, monkeypatch, 6)) == []
    result, said = train(experiment, run)
    assert restored(said)[0].startswith("restored step 5 from the durable checkpoint")
    same(result, run, whole)


@pytest.mark.exhaustive
def test_another_run_in_the_same_folder_is_left_alone(experiment, whole, tmp_path, monkeypatch):
    """Also one whose run folder was removed and begun anew."""
    run, experiment = tmp_path / "run", local(experiment, tmp_path)
    killed(experiment, run, monkeypatch, 8)
    shutil.rmtree(run)
    result, said = train(experiment, run)
    assert restored(said) == []
    same(result, run, whole)
    assert disk(tmp_path) == ["process-0-of-1/6"]


@pytest.mark.exhaustive
def test_a_full_local_disk_is_a_line_and_the_training_goes_on(experiment, whole, tmp_path, monkeypatch):
    from transformer.checkpoint import shards

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards, "_write_all", full)
    result, said = train(local(experiment, tmp_path), tmp_path / "run")
    failures = [line for line in said if "could not be saved" in line]
    assert failures == [
        f"step {step} could not be saved in {tmp_path}/disk: [Errno 28] No space left on device. The training goes on"
        for step in (3, 6, 9, 12)
    ]
    same(result, tmp_path / "run", whole)
    assert list((tmp_path / "disk").iterdir()) == []


class Run(crash.Run):
    """A tiny run of real processes that keeps local checkpoints, ten times as often as durable ones."""

    def __init__(self, folder, name, processes, *, keeps=True):
        super().__init__(folder / name, folder / "corpus", processes)
        self.disk = folder / "disk"
        self._args += ["--train.eval-every", "60", "--train.eval-batches", "2", "--checkpoint.every", "40"]
        if keeps:
            self._args += ["--checkpoint.local-dir", str(self.disk), "--checkpoint.local-every", "4"]

    def newest_local(self):
        """The newest step that each process has whole; 0 for none."""
        folders = [self.disk.glob(f"*/process-{index}-of-{self.processes}/*") for index in range(self.processes)]
        steps = [{int(path.name) for path in folder if path.name.isdigit()} for folder in folders]
        return max(set.intersection(*steps), default=0)

    def killed(self, after):
        """Kills all processes, at once, after a step that is saved locally and newer than the durable ones; returns
        what they said of restoring.
        """
        size = len(self.log())
        with self.started() as started:
            ends = time.monotonic() + 200
            while self.newest_local() <= max(after, self.newest):
                assert time.monotonic() < ends
                assert started[0].poll() is None, self.log()
                time.sleep(0.002)
            for process in started:
                process.send_signal(signal.SIGKILL)
        return restored(self.log()[size:].splitlines())

    def finished(self):
        """Runs it to its end; returns what it said of restoring."""
        size = len(self.log())
        assert crash.survive(self, [], random.Random(0)).total() == 0
        return restored(self.log()[size:].splitlines())

    def log(self):
        path = self.folder.with_name(f"{self.folder.name}.log")
        return path.read_text() if path.exists() else ""


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [1, 2])
def test_killed_processes_go_on_from_what_each_has_on_its_disk(tmp_path, monkeypatch, count):
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")  # what a killed process says is in its log
    crash.write_corpus(tmp_path / "corpus")
    reference = Run(tmp_path, "whole", count, keeps=False)
    reference.finished()
    run = Run(tmp_path, "run", count)
    assert run.killed(8) == []
    step = run.newest_local()
    assert step > run.newest
    if count == 1:
        said = run.finished()
    else:
        said = run.killed(50)
        # One of the hosts is another now.
        [folder] = run.disk.glob("*/process-1-of-2")
        shutil.rmtree(folder)
        durable = run.newest
        lost, fallback = run.finished()
        assert lost.startswith("local checkpoints are not used: step")
        assert lost.endswith("it is not there (process 1 of 2)")
        assert fallback.startswith(f"restored step {durable} from the durable checkpoint")
    assert [line.partition(" in ")[0] for line in said] == [f"restored step {step} from local checkpoints"]
    assert crash.differences(run, reference) == []
    assert list(run.disk.iterdir()) == []
