"""A run on what is no text, by a model without a vocabulary: vectors drawn from a formula, and a number to be told."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import train as command
from tests.training import runs
from transformer.checkpoint import CheckpointConfig
from transformer.data import kinds
from transformer.data.dataset import About, DataConfig, Dataset
from transformer.data.records import JoinedRecords, Reading, Record, Records
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.inference.restored import restore
from transformer.layers.execution import Execution
from transformer.layers.primitives import Linear
from transformer.models import FAMILIES
from transformer.models.architecture import Architecture
from transformer.objectives import OBJECTIVES
from transformer.objectives.causal_lm import CausalLM
from transformer.objectives.objective import Objective
from transformer.parallel.mesh import MeshConfig
from transformer.training import experiment as experiments
from transformer.training import loop
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.run import Run
from transformer.training.saved_evaluation import evaluate_checkpoint
from transformer.training.session import Session

CHANNELS = 4
SLOPE = np.array([1.0, -2.0, 0.5, 3.0], np.float32)


class Vectors(Records):
    """Record i: a vector, float32[C], and the number that a straight line makes of it."""

    def __init__(self, seed: int, count: int):
        self._seed, self._count = seed, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        vector = np.random.default_rng((self._seed, index)).normal(size=CHANNELS).astype(np.float32)
        return {"vector": vector, "number": np.asarray(vector @ SLOPE), "there": np.ones((), np.float32)}


@dataclasses.dataclass(frozen=True)
class VectorConfig(DataConfig):
    kind: ClassVar[str] = "vectors"
    identity: ClassVar[tuple[str, ...]] = ("count",)

    count: int = 50
    changed: bool = False
    cache_dir: str = "cache"
    workers: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        return ("a line",)

    def flag(self, source: str) -> str:
        return f"data.count {self.count}"


def open_vectors(config, reading, *, vocab_size, input_size, tokenizer, whole) -> Dataset:
    assert vocab_size is None
    assert tokenizer is None
    return Dataset(
        train=() if whole else (Vectors(0, config.count),),
        weights=() if whole else (1.0,),
        validation=JoinedRecords([Vectors(1, 20)]),
        fingerprint=f"line-{config.count}",
        about=About({"sources": {"a line": f"{config.count}"}}, f"{config.count} vectors to train on, 20 to validate"),
    )


class VectorModel(nn.Module):
    config: "VectorModelConfig"

    @nn.compact
    def __call__(self, vectors: jax.Array, *, deterministic: bool) -> jax.Array:
        """Returns numbers [B] for vectors [B, C]."""
        hidden = Linear((self.config.width,), ("out", "mlp"), jnp.float32, name="hidden")(vectors)
        return Linear((1,), ("mlp", "label"), jnp.float32, name="told")(jnp.tanh(hidden))[:, 0]


@dataclasses.dataclass(frozen=True)
class VectorModelConfig(Architecture):
    family: ClassVar[str] = "vectors"
    kind: ClassVar[str] = "vector_reader"
    tied_norms: ClassVar[tuple[str, ...]] = ()
    stacks: ClassVar[dict[str, int]] = {}

    vocab_size: None = None
    head: Literal["number"] = "number"
    num_labels: int = 1
    width: int = 16

    def build(self, execution: Execution) -> VectorModel:
        return VectorModel(self)

    def example_inputs(self, batch: int = 1, length: int = 1) -> dict[str, Any]:
        return {"vectors": jnp.zeros((batch, CHANNELS)), "deterministic": True}


@dataclasses.dataclass(frozen=True)
class Regression(Objective):
    name: ClassVar[str] = "regression"
    kind: ClassVar[str] = "vector_reader"

    @property
    def head(self) -> str:
        return "number"

    def example(self, record: Record, rng: np.random.Generator, setting: None) -> dict[str, Any]:
        return {"inputs": {"vectors": record["vector"]}, "targets": record["number"], "weights": record["there"]}

    def loss(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        loss_sum = (batch["weights"] * (outputs - batch["targets"]) ** 2).sum()
        return loss_sum, batch["weights"].sum(), {"nll": loss_sum}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Lists what this file defines where a project would: a line each."""
    monkeypatch.setitem(FAMILIES, "vectors", VectorModelConfig)
    monkeypatch.setitem(OBJECTIVES, "regression", Regression)
    monkeypatch.setitem(kinds.KINDS, "vectors", kinds.Kind(VectorConfig, (Reading,), open_vectors))


EXPERIMENT = Experiment(
    name="line",
    model=VectorModelConfig(),
    objective=Regression(),
    data=VectorConfig(),
    optimizer=OptimizerConfig(learning_rate=0.2, warmup_steps=2),
    train=TrainConfig(steps=12, batch_size=16, eval_every=4, eval_batches=None, log_every=1),
    mesh=MeshConfig(data=1),
    checkpoint=CheckpointConfig(every=4),
)


def test_a_session_makes_a_model_learn():
    session = Session(EXPERIMENT)
    with jax.set_mesh(session.mesh), session.batches() as batches:
        state = session.initial_state()
        before = session.evaluate(state.params)
        for _ in range(12):
            state, _ = session.program.step(state, next(batches))
        after = session.evaluate(state.params)
    assert after.loss < before.loss / 2
    assert after.targets == 20, "padding weighs something"
    assert (after.perplexity, after.bits_per_byte) == (None, None)


def test_a_run_is_trained_resumed_evaluated_and_restored(tmp_path, monkeypatch, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    said: list[str] = []
    result = loop.train(EXPERIMENT, whole, report=said.append)
    assert "50 vectors to train on, 20 to validate" in said[0]
    losses = runs.losses(whole)
    assert losses[12] < losses[1] / 2
    assert sorted(runs.evaluations(whole)) == [4, 8, 12]
    assert not any("eval_perplexity" in row for row in runs.rows(whole))
    assert not (whole / "tokenizer").exists()

    runs.stopped(EXPERIMENT, cut, monkeypatch, after=5)
    runs.train(EXPERIMENT, cut)
    assert runs.losses(cut) == losses
    assert runs.evaluations(cut) == runs.evaluations(whole)

    restored = restore(cut)
    jax.tree.map(np.testing.assert_array_equal, restored.params, jax.device_get(result.params))
    with pytest.raises(UserError, match="has no tokenizer"):
        _ = restored.tokenizer
    evaluation, _ = evaluate_checkpoint(experiments.read(Run(cut).experiment_path), cut)
    assert evaluation.loss == pytest.approx(result.evaluation.loss, rel=1e-6)

    command.report(result)
    assert f"validation loss {result.evaluation.loss:.4f}\n" in capsys.readouterr().out


def test_another_dataset_is_refused_by_its_content(tmp_path):
    stopped = dataclasses.replace(EXPERIMENT, train=dataclasses.replace(EXPERIMENT.train, steps=4))
    runs.train(stopped, tmp_path / "run")
    others = dataclasses.replace(EXPERIMENT, data=VectorConfig(count=51, changed=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VectorConfig, "identity", ())
        with pytest.raises(UserError, match="data.count was 50, now 51"):
            runs.train(others, tmp_path / "run")
    runs.train(others, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "data.json").read_text()) == {"sources": {"a line": "51"}}


def test_an_experiment_names_its_kind_of_data():
    record = json.loads(json.dumps(experiments.to_dict(EXPERIMENT)))
    assert record["data"]["kind"] == "vectors"
    assert experiments.from_dict(record, "here") == EXPERIMENT
    text = dataclasses.replace(EXPERIMENT, data=TextConfig(path="a.txt"))
    assert "kind" not in experiments.to_dict(text)["data"]  # as all experiments were written before
    record["data"]["kind"] = "smells"
    with pytest.raises(
        UserError, match="unknown data 'smells'; known as a `kind`: text, images, audio, examples, chats, vectors"
    ):
        experiments.from_dict(record, "here")


@pytest.mark.parametrize(
    ("objective", "data", "words"),
    [
        (CausalLM(), VectorConfig(), "the objective causal_lm trains a decoder, and vectors is a vector-reader"),
        (Regression(), TextConfig(path="a.txt"), "the objective reads no text, which --data is"),
    ],
)
def test_what_does_not_fit_is_refused(objective, data, words):
    with pytest.raises(UserError, match=words):
        _ = Session(dataclasses.replace(EXPERIMENT, objective=objective, data=data)).dataset
