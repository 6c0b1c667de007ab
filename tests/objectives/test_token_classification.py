"""Tagging against PyTorch and seqeval: the same losses and logits; whole sentences scored, whatever the row holds."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score

from tests.exhaustive import few
from tests.interop.parity import tensor
from transformer.data.examples.config import ExamplesConfig
from transformer.errors import UserError
from transformer.interop.llama import LLAMA
from transformer.models.llama import LlamaConfig
from transformer.objectives.token_classification import TokenClassification
from transformer.parallel.mesh import MeshConfig
from transformer.training.session import Session

from . import fine_tuning

NAMES = ("B-LOC", "B-PER", "I-PER", "O")
MODELS = {
    "bert": (fine_tuning.BERT, fine_tuning.TINY),
    "llama": (LLAMA, LlamaConfig(**fine_tuning.SIZES, num_kv_heads=1, mlp_width=40)),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sentences of up to a dozen short words, of which some are longer than a row of 32 bytes."""
    rng, lines = np.random.default_rng(0), []
    for _ in range(120):
        words, tags = [], []
        for _ in range(int(rng.integers(1, 8))):
            kind = int(rng.integers(3))
            words += [["Ann", "Lee"], ["Rome"], [f"w{rng.integers(99)}"]][kind]
            tags += [["B-PER", "I-PER"], ["B-LOC"], ["O"]][kind]
        lines.append(json.dumps({"tokens": words, "tags": tags}))
    path = tmp_path_factory.mktemp("data") / "a.jsonl"
    path.write_text("\n".join(lines))
    return ExamplesConfig(
        path=str(path), text_field="tokens", label_field="tags", tokenizer="bytes", validation_fraction=0.2
    )


def session(data, kind="bert", **train):
    model = dataclasses.replace(MODELS[kind][1], head="token_classification", num_labels=4, labels=NAMES)
    return Session(fine_tuning.experiment(model, TokenClassification(), data, **train))


@pytest.mark.parametrize("kind", few(MODELS, "bert"))
def test_twenty_steps_equal_pytorchs(kind, data):
    """Transformers' own loss, with the label -100 where a tag weighs nothing."""
    made = session(data, kind)

    def loss(theirs, batch):
        labels = np.where(np.asarray(batch["weights"]) > 0, np.asarray(batch["targets"]), -100)
        return theirs(**fine_tuning.asked(batch), labels=tensor(labels).long()).loss

    batch, state, theirs = fine_tuning.assert_updates_equal_pytorchs(made, loss, family=MODELS[kind][0])
    real = np.asarray(batch["inputs"]["segment_ids"]) > 0
    ours, want = fine_tuning.scores(made, state.params, batch), theirs(**fine_tuning.asked(batch)).logits
    fine_tuning.assert_near(np.asarray(ours)[real], want[torch.tensor(real)])


def test_a_batch_is_cut_with_its_targets(data):
    fine_tuning.assert_narrow_batches_weigh_as_whole_ones(session(data))


def test_meshes_and_microbatches_change_nothing(data):
    fine_tuning.assert_nothing_changes_over_meshes(session(data).experiment)


@pytest.mark.exhaustive
def test_a_ring_of_decoders_tells_words_in_the_order_of_the_text(data):
    told = []
    for mesh in (MeshConfig(data=1), MeshConfig(data=1, sequence=2)):
        base = session(data, "llama").experiment
        execution = dataclasses.replace(base.execution, context="ring")
        made = Session(dataclasses.replace(base, mesh=mesh, execution=execution))
        with jax.set_mesh(made.mesh):
            told.append(made.evaluate(made.initial_state().params))
    assert told[0].metrics == pytest.approx(told[1].metrics, abs=1e-6)
    np.testing.assert_array_equal(told[0].predictions["classes"], told[1].predictions["classes"])


def test_whole_sentences_are_scored_and_what_the_row_does_not_hold_is_told_nothing_of(data):
    """Right predictions of what was read, beside seqeval's own figure of the sentences with O behind the cut."""
    made = session(data)
    dataset, objective, model = made.dataset, made.experiment.objective, made.experiment.model
    records = dataset.validation
    classes = np.stack([records[number]["tags"] for number in range(len(records))])
    rows = [dataset.held_out[number].values for number in range(len(records))]
    want = []
    for row in rows:
        ends = np.cumsum([len(word) + 1 for word in row["tokens"]])  # <s> stands before, a space between: a byte each
        starts = ends - [len(word) for word in row["tokens"]]
        want.append([tag if start < 31 else "O" for tag, start in zip(row["tags"], starts, strict=True)])
    right = [row["tags"] for row in rows]
    assert want != right
    found = objective.score({"classes": classes}, dataset, model)
    assert found["f1"] == pytest.approx(f1_score(right, want))
    assert 0.5 < found["f1"] < 1
    assert [answer["told"] for answer in objective.answers({"classes": classes}, dataset, model)] == want
    count, of = objective.resampling({"classes": classes}, dataset, model)
    assert of(np.arange(count)) == found
    assert objective.table({"classes": classes}, dataset, model).split()[:4] == [
        "precision",
        "recall",
        "f1-score",
        "support",
    ]


def test_a_model_with_another_order_of_tags_is_scored_by_names(data):
    made = session(data)
    other = dataclasses.replace(made.experiment.model, labels=("O", "I-PER", "B-PER", "B-LOC"))
    again = Session(dataclasses.replace(made.experiment, model=other))
    example = again.example(again.dataset.validation[0], np.random.default_rng(0))
    before = made.example(made.dataset.validation[0], np.random.default_rng(0))
    weighed = before["weights"] > 0
    assert [other.labels[n] for n in example["targets"][weighed]] == [NAMES[n] for n in before["targets"][weighed]]
    classes = np.stack([again.example(again.dataset.validation[i], None)["targets"] for i in range(5)])
    scored = again.experiment.objective.score({"classes": classes}, again.dataset, other)
    assert scored["precision"] == pytest.approx(1)


def test_tags_that_a_model_does_not_know_are_refused(data):
    experiment = session(data).experiment
    model = dataclasses.replace(experiment.model, num_labels=2, labels=("O", "B-PER"))
    made = Session(dataclasses.replace(experiment, model=model))
    with pytest.raises(UserError, match=r":\d+: the label 'B-LOC' is none of the model's 2"):
        print(made.dataset)
