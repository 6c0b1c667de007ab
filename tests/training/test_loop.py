"""Whole runs on a tiny text: interrupted runs go on exactly, and every file of the run folder is as promised."""

import dataclasses
import functools
import gc
import json
import shutil
import weakref

import jax
import numpy as np
import pytest

from tests.exhaustive import few
from tests.training.runs import evaluations, losses, rows, stopped, train
from transformer import checkpoint
from transformer.checkpoint import CheckpointConfig, Damaged, Files
from transformer.errors import UserError
from transformer.inference.restored import restore
from transformer.inference.sampling import Sampling
from transformer.inference.text_generator import TextGenerator
from transformer.parallel.mesh import MeshConfig
from transformer.planning.rematerialisation import Choice
from transformer.training import experiment as experiments
from transformer.training import loop
from transformer.training.announcement import announce
from transformer.training.experiment import TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.program import Program
from transformer.training.progress import Progress
from transformer.training.saved_evaluation import evaluate_checkpoint
from transformer.training.session import Session


@pytest.fixture(scope="module")
def whole(experiment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    return train(experiment, folder), folder


def test_a_step_moves_nothing_to_the_devices(experiment, tmp_path, monkeypatch):
    """But its batch, which is there before, and the first one's constants: what is put there unasked holds it up."""
    step, steps, told = Program.step, [], Progress.step

    def guarded(self, state, batch, *, of_host=False):
        steps.append(len(steps))
        batch = jax.tree.map(np.asarray, batch) if of_host else batch
        with jax.transfer_guard("disallow" if len(steps) > 1 else "allow"):
            return step(self, state, batch)

    def told_guarded(self, *arguments):
        with jax.transfer_guard("disallow"):
            return told(self, *arguments)

    monkeypatch.setattr(Program, "step", guarded)
    monkeypatch.setattr(Progress, "step", told_guarded)
    train(experiment, tmp_path / "run")
    assert len(steps) == 12

    steps.clear()
    monkeypatch.setattr(Program, "step", functools.partialmethod(guarded, of_host=True))
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        train(experiment, tmp_path / "other")


def test_run_folder_holds_what_it_promises(whole, experiment):
    result, folder = whole
    names = {path.name for path in folder.iterdir()}
    files = {"experiment.json", "architecture.json", "data.json", "metrics.jsonl"}
    assert names == files | {"checkpoints", "tokenizer", "tensorboard", "goodput"}
    assert sorted(losses(folder)) == list(range(1, 13))
    assert sorted(evaluations(folder)) == [4, 8, 12]
    row = next(row for row in rows(folder) if row["step"] == 6)
    assert {"loss", "grad_norm", "learning_rate", "tokens_per_second", "step_seconds", "mfu"} <= set(row)
    assert losses(folder)[12] < losses(folder)[1] - 0.5
    assert json.loads((folder / "experiment.json").read_text())["name"] == "tiny"
    assert json.loads((folder / "goodput" / "1.json").read_text())["remat"] == "none"
    step = folder / "checkpoints" / "12"
    assert {"params", "opt_state", "data", "record", "seal.json"} <= {path.name for path in step.iterdir()}
    assert json.loads((step / "data" / "metrics.json").read_text())["eval_loss"] == evaluations(folder)[12]
    assert json.loads((step / "data" / "position.json").read_text()) == {"step": 12}
    assert result.evaluation.loss == pytest.approx(evaluations(folder)[12], rel=1e-6)
    bits = result.evaluation.loss * result.session.dataset.figures.targets_per_byte / np.log(2)
    assert result.evaluation.bits_per_byte == pytest.approx(bits)


def test_first_loss_is_near_that_of_a_uniform_guess(whole, experiment):
    assert losses(whole[1])[1] == pytest.approx(np.log(experiment.model.vocab_size), rel=0.05)


@pytest.mark.parametrize("after", few([2, 5, 6], 5, 6))  # before a step, within an evaluation, after one
def test_an_interrupted_run_goes_on_exactly(after, experiment, whole, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    stopped(experiment, folder, monkeypatch, after=after)
    assert len(losses(folder)) < 12
    result = train(experiment, folder)
    assert losses(folder) == losses(whole[1])
    assert evaluations(folder) == evaluations(whole[1])
    assert len(rows(folder)) == len(rows(whole[1]))
    jax.tree.map(np.testing.assert_array_equal, result.params, whole[0].params)


def test_worker_processes_change_nothing_and_may_change(experiment, whole, tmp_path, monkeypatch):
    with_workers = dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, workers=2))
    stopped(with_workers, tmp_path / "run", monkeypatch, after=5)
    train(experiment, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(whole[1])
    assert evaluations(tmp_path / "run") == evaluations(whole[1])


def test_a_run_goes_on_after_losing_everything_since_its_checkpoint(experiment, whole, tmp_path, monkeypatch):
    """As after a kill: the rows past the checkpoint are there, and are written again, not twice."""
    folder = tmp_path / "run"
    stopped(experiment, folder, monkeypatch, after=3)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')
    train(experiment, folder)
    assert losses(folder) == losses(whole[1])


@pytest.mark.exhaustive
def test_a_run_goes_on_on_another_mesh(experiment, whole, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    stopped(experiment, folder, monkeypatch, after=5)
    train(dataclasses.replace(experiment, mesh=MeshConfig(data=2, fsdp=2, tensor=2)), folder)
    np.testing.assert_allclose(list(losses(folder).values()), list(losses(whole[1]).values()), atol=1e-5)


def test_a_finished_run_is_only_evaluated_again(experiment, whole):
    result, folder = whole
    before = rows(folder)
    again = train(experiment, folder)
    assert rows(folder) == before
    assert again.evaluation.loss == pytest.approx(result.evaluation.loss, rel=1e-6)


def test_another_experiment_is_refused_and_nothing_is_touched(experiment, whole):
    folder = whole[1]
    before = (folder / "experiment.json").read_bytes()
    other = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, width=32))
    with pytest.raises(UserError, match="another experiment: model.width was 16, now 32"):
        train(other, folder)
    assert (folder / "experiment.json").read_bytes() == before


def test_keeps_the_newest_and_the_best(experiment, tmp_path):
    kept = dataclasses.replace(experiment, checkpoint=CheckpointConfig(every=2, keep=1, keep_best=1))
    # A rate so high after a good start that the last evaluation is not the best.
    train(kept, tmp_path / "run")
    steps = {int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()}
    best = min(evaluations(tmp_path / "run").items(), key=lambda item: item[1])[0]
    assert steps == {12, best}


def test_stops_when_updates_are_not_finite(experiment, tmp_path):
    hot = dataclasses.replace(
        experiment,
        model=dataclasses.replace(experiment.model, dropout=0.0),
        optimizer=OptimizerConfig(name="adamw", learning_rate=1e30, warmup_steps=0, schedule="constant"),
        train=dataclasses.replace(experiment.train, max_skipped=3),
    )
    with pytest.raises(UserError, match=r"not finite in 3 updates in a row, the last of them \d+: lower"):
        train(hot, tmp_path / "run")


def test_weights_restore_alone_and_generate(whole):
    _, folder = whole
    assert checkpoint.find(folder).name == "12"
    generator = TextGenerator(restore(folder))
    texts = generator(["the", "and that it"], max_new_tokens=16, how=Sampling(temperature=0))
    assert len(texts) == 2
    assert all(one.text for [one] in texts)
    assert texts == generator(["the", "and that it"], max_new_tokens=16, how=Sampling(temperature=0))


def test_a_batch_that_the_mesh_does_not_divide_is_refused(experiment, tmp_path):
    with pytest.raises(UserError, match=r"batch-size 8 = 8 rows are not divided by the mesh's data = 3"):
        train(dataclasses.replace(experiment, mesh=MeshConfig(data=3)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_training_in_float16_is_refused_and_using_it_is_not(experiment, whole, tmp_path):
    half = dataclasses.replace(experiment, execution=dataclasses.replace(experiment.execution, dtype="float16"))
    with pytest.raises(UserError, match=r"--execution.dtype float16 does not train: .*: choose bfloat16"):
        train(half, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    full = evaluate_checkpoint(experiment, whole[1])[0].loss
    assert evaluate_checkpoint(half, whole[1])[0].loss == pytest.approx(full, rel=0.01)


def test_find_names_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="no such run or checkpoint"):
        checkpoint.find(tmp_path / "nothing")
    with pytest.raises(UserError, match="no checkpoint here"):
        checkpoint.find(tmp_path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's writes after the first bad one
def test_a_full_disk_during_a_save_ends_nothing(experiment, whole, tmp_path, monkeypatch):
    said, saves = [], []
    original = Files.save

    async def fails_once(self, directory):
        saves.append(directory)
        if len(saves) in (1, 2):  # both checkpointables of the first save
            raise OSError(28, "No space left on device")
        return await original(self, directory)

    monkeypatch.setattr(Files, "save", fails_once)
    folder = tmp_path / "run"
    loop.train(experiment, folder, report=said.append)
    assert losses(folder) == losses(whole[1])
    assert sorted(int(path.name) for path in (folder / "checkpoints").iterdir()) == [8, 12]
    [line] = [line for line in said if "could not be saved" in line]
    assert line.startswith("step 4 could not be saved: ")
    assert "No space left on device; there is none yet. The training goes on" in line
    gc.collect()  # what Orbax began, and nobody awaits: here, not in another test


def test_a_damaged_checkpoint_is_passed_over_only_when_asked(experiment, whole, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(whole[1], folder)
    damaged = folder / "checkpoints" / "12" / "record" / "architecture.json"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b" ")
    with pytest.raises(Damaged, match=r"record/architecture.json: its content changed. To go on from step 8: --checkp"):
        train(experiment, folder)
    said = []
    asked = dataclasses.replace(experiment, checkpoint=CheckpointConfig(every=4, fallback=True))
    result = loop.train(asked, folder, report=said.append)
    assert any("It is set aside as" in line and "12.damaged-1" in line for line in said)
    _, total = result.session.validation_batches
    assert total > 2
    assert f"evaluates on 2 of {total:,} validation batches; --train.eval-batches None for all" in said
    assert losses(folder) == losses(whole[1])
    assert len(rows(folder)) == len(rows(whole[1]))
    jax.tree.map(np.testing.assert_array_equal, result.params, whole[0].params)


def test_a_start_says_what_it_computes_again_where_that_is_left_to_it(experiment, whole, tmp_path, monkeypatch):
    choice = Choice("attention", "as planned")
    monkeypatch.setattr("transformer.training.program.chosen", lambda *_: choice)
    execution = dataclasses.replace(experiment.execution, remat="auto")
    session = Session(dataclasses.replace(experiment, execution=execution), dataset=whole[0].session.dataset)
    said: list[str] = []
    announce(session, 0, tmp_path, said.append)
    assert "rematerialisation attention: as planned" in said


def test_how_much_an_evaluation_reads(experiment, whole):
    dataset = whole[0].session.dataset
    validation = len(dataset.validation)
    total = -(-validation // 8)

    def batches(**changes):
        changed = dataclasses.replace(experiment.train, **changes)
        return Session(dataclasses.replace(experiment, train=changed), dataset=dataset).validation_batches

    assert batches(eval_batches=None) == batches(eval_batches=total) == batches(eval_batches=10**9) == (total, total)
    assert batches(eval_batches=total - 1) == (total - 1, total)
    assert batches(eval_batches=1, accumulation=2) == (1, -(-validation // 4))
    unbounded = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, eval_batches=None))
    assert experiments.from_dict(experiments.to_dict(unbounded), "x").train.eval_batches is None
    assert TrainConfig().eval_batches == 100


def test_nothing_holds_a_state_that_an_update_took(experiment, whole, tmp_path, monkeypatch):
    """Also not the first one, which a start restores before it makes anything else of the run."""
    folder, step, taken = tmp_path / "run", Program.step, []
    shutil.copytree(whole[1], folder)
    shutil.rmtree(folder / "checkpoints" / "12")

    def noted(program, state, batch):
        assert [ref for ref in taken if ref() is not None] == []
        taken.append(weakref.ref(state))
        return step(program, state, batch)

    monkeypatch.setattr(Program, "step", noted)
    train(experiment, folder)
    assert len(taken) == 4


def test_an_evaluation_that_was_made_up_for_is_not_written_twice(experiment, whole, tmp_path, monkeypatch):
    """A stop within the evaluation of step 4; then, on the way on, a kill after that evaluation and before a save."""
    folder = tmp_path / "run"
    stopped(experiment, folder, monkeypatch, after=5)
    assert max(losses(folder)) == 4
    assert not evaluations(folder)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 4, "eval_loss": evaluations(whole[1])[4]}) + "\n")
    train(experiment, folder)
    assert len(rows(folder)) == len(rows(whole[1]))
    assert evaluations(folder) == evaluations(whole[1])
