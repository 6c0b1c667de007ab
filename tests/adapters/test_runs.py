"""Runs that train an adapter: small checkpoints that name their base, resumed exactly, merged where they are used."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import processes
from tests.data.corpus import make_text
from tests.training.runs import evaluations, losses, stopped, train
from train import report
from transformer import checkpoint
from transformer.adapters.config import AdapterConfig
from transformer.checkpoint import CheckpointConfig, adapted, rewrite
from transformer.checkpoint.describe import describe
from transformer.data.text.config import TextConfig
from transformer.distillation.config import TeacherConfig
from transformer.errors import UserError
from transformer.inference.restored import restore
from transformer.models.gpt import GPTConfig
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.params import flatten
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.saved_evaluation import evaluate_checkpoint
from transformer.training.session import Session
from transformer.transfer.config import InitConfig

STEPS = 12
ADAPTER = AdapterConfig(rank=2, dora=True, dropout=0.1, whole="backbone/final_norm/.*")


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A whole model's."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text(make_text(400))
    return Experiment(
        "tiny",
        GPTConfig(vocab_size=384, context_length=32, width=32, num_layers=2, num_heads=4, dropout=0.1),
        data=TextConfig(path=str(folder / "text.txt"), tokenizer="bytes", cache_dir=str(folder / "cache")),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
        train=TrainConfig(steps=STEPS, batch_size=8, seq_len=32, eval_every=6, eval_batches=2, log_every=1),
        mesh=MeshConfig(data=1),
        checkpoint=CheckpointConfig(every=6, keep=2),
    )


@pytest.fixture(scope="module")
def base(experiment, tmp_path_factory):
    """A run of a whole model, which the adapters are of."""
    run = tmp_path_factory.mktemp("base") / "run"
    train(experiment, run)
    return run


@pytest.fixture(scope="module")
def beside(experiment, base):
    """The adapter's experiment."""
    return dataclasses.replace(experiment, init=InitConfig(str(base)), adapter=ADAPTER)


@pytest.fixture(scope="module")
def ended(beside, tmp_path_factory):
    """What came of a run of the adapter."""
    return train(beside, tmp_path_factory.mktemp("adapter") / "run")


@pytest.fixture(scope="module")
def whole(ended):
    """The adapter's run folder."""
    return Path(ended.run.folder)


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_it_learns_and_its_checkpoints_are_small(base, whole):
    rows = losses(whole)
    assert rows[1] == pytest.approx(losses(base)[STEPS], rel=0.1)  # it begins as its base ended
    assert evaluations(whole)[STEPS] < evaluations(base)[STEPS]
    saved, of_base = whole / "checkpoints" / str(STEPS), base / "checkpoints" / str(STEPS)
    numbers = {name: size(saved / name) / size(of_base / name) for name in ("params", "opt_state")}
    assert max(numbers.values()) < 0.3
    assert {path.rpartition("/")[2] for path in adapted_paths(saved)} == {
        "lora_a", "lora_b", "lora_magnitude", "scale", "bias",
    }  # fmt: skip
    [line] = [line for line in describe(checkpoint.find(whole)) if line.startswith("adapter")]
    assert str(of_base) in line


def test_a_run_ends_with_a_sample_of_the_merged_model(ended, capsys):
    report(ended)
    assert ">>>" in capsys.readouterr().out


def adapted_paths(saved):
    about = adapted.of(checkpoint.find(saved))
    assert about is not None
    return flatten(adapted.adaptation_of(checkpoint.find(saved), about.config).abstract_params())


def test_an_interrupted_run_goes_on_exactly(beside, whole, tmp_path, monkeypatch):
    stopped(beside, tmp_path / "run", monkeypatch, after=7)
    train(beside, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(whole)
    assert evaluations(tmp_path / "run") == evaluations(whole)


def test_its_weights_restore_merged(whole, beside, tmp_path):
    """What the run evaluated is what tools see, by way of a merged checkpoint too."""
    evaluation, _ = evaluate_checkpoint(beside, whole)
    within = dataclasses.replace(beside, train=dataclasses.replace(beside.train, eval_batches=None))
    place = rewrite.merge(checkpoint.find(whole), tmp_path / "merged")
    assert adapted.of(place) is None
    assert "adapter" not in json.loads((place / "record" / "experiment.json").read_text())
    again, _ = evaluate_checkpoint(within, place)
    assert again.loss == pytest.approx(evaluation.loss, rel=1e-6)
    short = dataclasses.replace(beside, train=dataclasses.replace(beside.train, eval_batches=2))
    run = evaluations(whole)[STEPS]
    assert evaluated(short, whole) == pytest.approx(run, rel=1e-5)
    used = restore(whole)
    assert used.architecture == beside.model
    merged = flatten(restore(tmp_path / "merged").params)
    jax.tree.map(np.testing.assert_array_equal, flatten(used.params), merged)


def evaluated(experiment, run):
    """The loss that the run's own evaluation would have, of merged weights."""
    session = Session(dataclasses.replace(experiment, adapter=AdapterConfig()), tokenizer_dir=run / "tokenizer")
    with jax.set_mesh(session.mesh):
        _, params = checkpoint.restore_model(checkpoint.find(run), session.mesh)
        return session.evaluate(params).loss


@pytest.fixture
def copies(base, whole, tmp_path):
    """A base and its adapter, to be moved and damaged: (base, adapter)."""
    for name, run in (("base", base), ("adapter", whole)):
        shutil.copytree(run, tmp_path / name)
    record = json.loads((tmp_path / "adapter" / adapted.NAME).read_text())
    record["base"]["path"] = str(tmp_path / "base" / "checkpoints" / str(STEPS))
    (tmp_path / "adapter" / adapted.NAME).write_text(json.dumps(record))
    return tmp_path / "base", tmp_path / "adapter"


def test_a_base_that_moved_can_be_named(copies, beside):
    base, run = copies
    moved = base.rename(base.parent / "moved")
    longer = dataclasses.replace(beside, train=dataclasses.replace(beside.train, steps=STEPS + 1))
    for use in (lambda: restore(run), lambda: train(longer, run)):
        with pytest.raises(UserError, match=r"is an adapter of .*/base/checkpoints/12, which is not there: name where"):
            use()
    assert adapted.move(run, str(moved)) == checkpoint.find(moved)
    restore(run)
    train(longer, run)
    assert max(losses(run)) == STEPS + 1


def test_another_base_is_refused(copies, beside):
    base, run = copies
    other = base / "checkpoints" / "6"
    message = r"6 is not the base of the adapter .*: its weights have the digest [0-9a-f]{12}, and the base's have "
    with pytest.raises(UserError, match=message):
        adapted.move(run, str(other))
    shutil.rmtree(base / "checkpoints" / str(STEPS))
    other.rename(base / "checkpoints" / str(STEPS))
    message = message.removeprefix("6")
    longer = dataclasses.replace(beside, train=dataclasses.replace(beside.train, steps=STEPS + 1))
    for use in (
        lambda: restore(run),
        lambda: train(longer, run),
        lambda: rewrite.merge(checkpoint.find(run), run / "m"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_what_is_no_whole_model_is_no_base(whole, beside, base, tmp_path):
    for adapter in (ADAPTER, AdapterConfig()):
        with pytest.raises(UserError, match="is an adapter, no whole model: merge it first"):
            train(dataclasses.replace(beside, init=InitConfig(str(whole)), adapter=adapter), tmp_path / "run")
    with pytest.raises(UserError, match="is no adapter: there is nothing to merge"):
        rewrite.merge(checkpoint.find(base), tmp_path / "merged")
    with pytest.raises(UserError, match="the mean of factors is not the factors of a mean"):
        rewrite.average([checkpoint.find(whole)] * 2, tmp_path / "mean")


def test_a_new_head_is_trained_with_it(base, beside):
    """Rows of a longer vocabulary too: what the weights lack is not frozen."""
    model = dataclasses.replace(beside.model, vocab_size=400, tie_embeddings=False)
    changed = dataclasses.replace(beside, model=model, init=InitConfig(str(base), vocabulary="mean"))
    session = Session(changed)
    adapter = session.program.adapter
    assert adapter is not None
    assert adapter.whole == {
        "backbone/final_norm/bias", "backbone/final_norm/scale", "backbone/token_embedding/embedding", "head/kernel",
    }  # fmt: skip
    with jax.set_mesh(session.mesh):
        lines: list[str] = []
        state = session.initial_state(lines.append)
        _, theirs = checkpoint.restore_model(checkpoint.find(base), make_mesh(MeshConfig(data=1)))
    assert lines[1].startswith("frozen: backbone/")
    assert not any(line.startswith("taken: nothing") for line in lines)
    rows = flatten(state.params)["backbone/token_embedding/embedding"]
    np.testing.assert_array_equal(rows[:384], flatten(theirs)["backbone/token_embedding/embedding"])


@pytest.mark.exhaustive
def test_two_processes_train_it_as_one(base, tmp_path):
    """Each holds its part of the frozen base, and reads it for itself."""
    flags = [
        "gpt-python", "--model.vocab-size", "384", "--model.context-length", "32", "--model.width", "32",
        "--model.num-layers", "2", "--model.num-heads", "4", "--init.path", str(base), "--adapter.rank", "2",
        "--data.path", str(tmp_path / "corpus.txt"), "--data.cache-dir", str(tmp_path / "cache"), "--train.steps", "4",
        "--train.batch-size", "8", "--train.seq-len", "32", "--train.log-every", "1", "--train.eval-batches", "2",
    ]  # fmt: skip
    (tmp_path / "corpus.txt").write_text(make_text(400))
    for count, mesh in ((1, ["--mesh.data", "1"]), (2, ["--mesh.data", "1", "--mesh.fsdp", "2"])):
        args = [str(processes.ROOT / "train.py"), *flags, *mesh, "--workdir", str(tmp_path / str(count))]
        ended = processes.run(args + ["--distributed"] * (count > 1), count, timeout=300)
        assert [process.code for process in ended] == [0] * count, ended[-1].err
    one, two = (losses(tmp_path / str(count)) for count in (1, 2))
    assert [*one] == [*two] == [1, 2, 3, 4]
    np.testing.assert_allclose([*two.values()], [*one.values()], rtol=1e-5)


def test_a_teacher_may_be_an_adapter(experiment, whole):
    """Its weights are merged, as wherever a model is used."""
    session = Session(dataclasses.replace(experiment, teacher=TeacherConfig(str(whole))))
    with jax.set_mesh(session.mesh):
        jax.tree.map(np.testing.assert_array_equal, session.frozen["teacher"], restore(whole).params)
