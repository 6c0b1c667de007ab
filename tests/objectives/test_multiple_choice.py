"""Multiple choice against PyTorch: the same losses and scores; choices that are not there are never told."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from tests.exhaustive import few
from tests.interop.parity import tensor
from transformer.data.examples.config import ExamplesConfig
from transformer.objectives.multiple_choice import MultipleChoice
from transformer.training.session import Session

from . import fine_tuning


def rows_of(counts):
    rng, rows = np.random.default_rng(0), []
    for number in range(80):
        count = counts[number % len(counts)]
        choices = [f"{'xyz'[int(rng.integers(3))]}{rng.integers(99)}" for _ in range(count)]
        rows.append({"context": f"{number} of {'a' * int(rng.integers(6))}", "choices": choices})
        rows[-1]["label"] = max(range(count), key=lambda i, choices=choices: choices[i])
    return rows


COUNTS = {"as many": (3,), "fewer": (3, 2)}


@pytest.fixture(scope="module", params=few(COUNTS, "fewer"))
def data(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows_of(COUNTS[request.param]))))
    return ExamplesConfig(path=str(path), text_field="context", tokenizer="bytes", validation_fraction=0.25)


def session(data, **train):
    model = dataclasses.replace(fine_tuning.TINY, head="multiple_choice")
    return Session(fine_tuning.experiment(model, MultipleChoice(choices=3), data, **train))


def test_twenty_steps_equal_pytorchs(data):
    """Transformers' own loss; of each example by itself, as it has no choices that are not there."""
    made = session(data)

    def loss(theirs, batch):
        losses = []
        for row, there in enumerate(np.asarray(batch["inputs"]["segment_ids"]).any(axis=-1)):
            asked = {name: values[row : row + 1, there] for name, values in fine_tuning.asked(batch).items()}
            labels = tensor(np.asarray(batch["targets"])[row : row + 1]).long()
            losses.append(theirs(**asked, labels=labels).loss)
        return sum(losses) / len(losses)

    batch, state, theirs = fine_tuning.assert_updates_equal_pytorchs(made, loss)
    there = np.asarray(batch["inputs"]["segment_ids"]).any(axis=-1)
    ours = np.asarray(fine_tuning.scores(made, state.params, batch)).reshape(there.shape)
    asked = {name: values[:1, there[0]] for name, values in fine_tuning.asked(batch).items()}
    have, want = ours[0, there[0]], theirs(**asked).logits[0]
    # What is added to all scores changes no loss: the head's bias moves by what rounding leaves of its slope.
    fine_tuning.assert_near(have - have[:1], want - want[:1])


def test_a_narrow_batch_weighs_as_the_whole_one(data):
    fine_tuning.assert_narrow_batches_weigh_as_whole_ones(session(data))


def test_meshes_and_microbatches_change_nothing(data):
    fine_tuning.assert_nothing_changes_over_meshes(session(data).experiment)


def test_an_evaluation_tells_choices_that_are_there(data):
    made = session(data)
    with jax.set_mesh(made.mesh):
        evaluation = made.evaluate(made.initial_state().params)
    objective, model = made.experiment.objective, made.experiment.model
    assert evaluation.targets == len(made.dataset.validation)
    told = list(objective.answers(evaluation.predictions, made.dataset, model))
    assert len(told) == len(made.dataset.validation)
    for answer in told:
        assert len(answer["scores"]) == len(answer["choices"])
        assert sum(answer["scores"]) == pytest.approx(1)
        assert answer["told"] == int(np.argmax(answer["scores"]))
    right = np.mean([answer["told"] == answer["label"] for answer in told])
    assert evaluation.metrics["accuracy"] == pytest.approx(right)
