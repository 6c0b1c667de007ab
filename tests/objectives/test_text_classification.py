"""Fine-tuning for classes of texts against PyTorch: the same losses and logits from the same weights and batches."""

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
import torch

from tests.exhaustive import few
from tests.interop import parity
from transformer.data.examples.config import ExamplesConfig
from transformer.errors import UserError
from transformer.interop.bart import BART
from transformer.interop.bert import BERT
from transformer.interop.llama import LLAMA
from transformer.interop.t5 import T5
from transformer.models.bart import BartConfig
from transformer.models.bert import BertConfig
from transformer.models.llama import LlamaConfig
from transformer.models.t5 import T5Config
from transformer.objectives.text_classification import TextClassification, classes_of
from transformer.parallel.mesh import MeshConfig
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.session import Session

SIZES = {"vocab_size": 400, "context_length": 32, "width": 24, "num_layers": 2, "num_heads": 2, "mlp_width": 40}
WORDS: dict[str, Any] = {"vocab_size": 400, "width": 24, "head": "sequence_classification"}
SIDES: dict[str, Any] = {"num_encoder_layers": 2, "num_decoder_layers": 2}
END = ByteTokenizer().special_id("<sep>")
MODELS = {
    "bert": (BERT, BertConfig(**SIZES, head="sequence_classification", dropout=0.0, attention_dropout=0.0)),
    "llama": (LLAMA, LlamaConfig(**SIZES, num_kv_heads=1, head="sequence_classification")),
    "bart": (
        BART,
        BartConfig(
            **WORDS, **SIDES, context_length=32, num_encoder_heads=2, num_decoder_heads=3, encoder_mlp_width=40,
            decoder_mlp_width=30, dropout=0.0, attention_dropout=0.0, mlp_dropout=0.0,
        ),
    ),
    "t5": (T5, T5Config(**WORDS, **SIDES, num_heads=2, head_width=8, mlp_width=40, dropout=0.0, tie_embeddings=False)),
}  # fmt: skip
LABELS = {
    "single_label_classification": [["b"], ["a"], ["c"]],
    "multi_label_classification": [["a", "b"], [], ["c"]],
    "regression": [[0.5], [-1.0], [2.0]],
}
STEPS = 20


@pytest.fixture(scope="module", params=[*LABELS])
def problem(request):
    return request.param


@pytest.fixture(scope="module")
def data(problem, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "examples.jsonl"
    rng = np.random.default_rng(0)
    rows = []
    for number in range(200):
        label = LABELS[problem][number % 3]
        text = f"{number} {'x' * (number % 3)} {'y' * int(rng.integers(20))}"
        rows.append({"text": text, "label": label if problem.startswith("multi") else label[0]})
    path.write_text("\n".join(map(json.dumps, rows)))
    return ExamplesConfig(path=str(path), tokenizer="bytes")


def experiment(kind, problem, data, **train):
    objective = TextClassification(problem=problem)
    fields = objective.model_fields(() if problem == "regression" else ("a", "b", "c"))
    return Experiment(
        name="test",
        model=dataclasses.replace(MODELS[kind][1], **fields),
        objective=objective,
        data=data,
        optimizer=OptimizerConfig(
            learning_rate=1e-3, schedule="constant", warmup_steps=0, weight_decay=0.0, b2=0.999, clip_norm=None
        ),
        mesh=MeshConfig(data=1),
        train=TrainConfig(**{"steps": STEPS, "batch_size": 6, "seq_len": 32, **train}),
    )


@pytest.mark.parametrize("kind", few(MODELS, "bert"))
def test_twenty_steps_equal_pytorchs(kind, problem, data):
    session = Session(experiment(kind, problem, data))
    pair = parity.make_pair(MODELS[kind][0], session.experiment.model, pad_token_id=0, eos_token_id=END)
    theirs, optimizer = pair.theirs.train(), torch.optim.AdamW(pair.theirs.parameters(), lr=1e-3, weight_decay=0.0)
    with jax.set_mesh(session.mesh), session.batches() as batches:
        state = dataclasses.replace(session.program.init(), params=pair.params)
        for _ in range(STEPS):
            batch = next(batches)
            inputs = {name: torch.tensor(np.asarray(values)) for name, values in batch["inputs"].items()}
            asked = {"input_ids": inputs["tokens"].long(), "attention_mask": (inputs["segment_ids"] > 0).long()}
            asked |= {"token_type_ids": inputs["token_types"].long()} if "token_types" in inputs else {}
            targets = torch.tensor(np.asarray(batch["targets"]))
            targets = targets.long() if problem.startswith("single") else targets
            loss = theirs(**asked, labels=targets.squeeze(-1) if problem == "regression" else targets).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state, metrics = session.program.step(state, batch)
            assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-4)
        ours = session.program.evaluate(state.params, batch).predictions["logits"]
        with torch.no_grad():
            want = theirs.eval()(**asked).logits.numpy()
    np.testing.assert_allclose(np.asarray(ours), want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_an_evaluation_scores_all_examples_once_in_their_order(problem, data):
    session = Session(experiment("bert", problem, data))
    with jax.set_mesh(session.mesh):
        params = session.initial_state().params
        evaluation = session.evaluate(params)
        names = {
            "single": {"accuracy", "f1", "matthews"},
            "multi_": {"accuracy", "f1_micro", "f1_macro", "exact_match"},
        }
        assert set(evaluation.metrics) == names.get(problem[:6], {"pearson", "spearman", "mse"})
        assert evaluation.targets == len(session.dataset.validation) > 6
        if problem == "regression":
            assert evaluation.metrics["mse"] == pytest.approx(evaluation.loss, rel=1e-5)


@pytest.mark.parametrize("problem", few(LABELS, "single_label_classification"), indirect=True)
def test_a_mesh_and_accumulation_change_nothing(problem, data):
    losses = []
    for mesh, parts in ((MeshConfig(data=1), 1), (MeshConfig(data=1), 2), (MeshConfig(data=2, tensor=2), 1)):
        asked = dataclasses.replace(experiment("bert", problem, data, accumulation=parts, batch_size=8), mesh=mesh)
        session = Session(asked)
        with jax.set_mesh(session.mesh):
            state = session.initial_state()
            state, metrics = session.program.step(state, session.batch(1))
            losses.append((float(metrics["loss"]), session.evaluate(state.params).loss))
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-5)


def test_balanced_classes_weigh_alike(data, problem):
    if not problem.startswith("single"):
        with pytest.raises(UserError, match="class_weights"):
            TextClassification(problem=problem, class_weights="balanced")
        return
    session = Session(experiment("bert", problem, data))
    objective = TextClassification(class_weights="balanced")
    setting = objective.setting(session.dataset, 32, session.experiment.model)
    totals = np.array(session.dataset.counts) * setting.weights
    np.testing.assert_allclose(totals, totals[0], rtol=1e-6)


def test_classes_are_found_by_name_and_unknown_ones_refused():
    model = dataclasses.replace(MODELS["bert"][1], num_labels=3, labels=("c", "a", "b"))
    known, unknown = (
        SimpleNamespace(labels=labels, held_out_with=lambda label: f"test.tsv:7 has {label}")
        for labels in (("a", "c"), ("a", "d"))
    )
    assert classes_of(known, model).tolist() == [1, 0]
    with pytest.raises(UserError, match=r"test.tsv:7 has d: the label 'd' is none of the model's 3 \(c, a, b\)"):
        classes_of(unknown, model)
