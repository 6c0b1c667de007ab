"""The guess by frequency is arithmetic: check it by hand, by a closed form, and on the rows of a run."""

import dataclasses
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.data.text.config import TextConfig
from transformer.models.bert import BertConfig
from transformer.objectives import MaskedLM
from transformer.parallel.mesh import MeshConfig
from transformer.training import baseline as module
from transformer.training.baseline import baseline, guess
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.session import Session


def batch(targets, weights=None, **more):
    targets = np.asarray(targets, np.int32)
    return {"targets": targets, "weights": np.ones(targets.shape, np.float32) if weights is None else weights, **more}


def test_by_hand():
    """Four kinds of tokens; training says 0 thrice and 1 once, so p = 4/8, 2/8, 1/8, 1/8."""
    training = [batch([[0, 0]]), batch([[0, 1]])]
    validation = [batch([[0, 1, 3]]), batch([[2, 0, 0]], np.array([[1, 0, 0]], np.float32))]
    found = guess(training, validation, 4)
    assert found.loss == pytest.approx(math.log(2) * (1 + 2 + 3 + 3) / 4)
    assert found.sentence_accuracy is None


def test_without_training_the_guess_is_uniform():
    assert guess([], [batch([[5, 6]])], 17).loss == pytest.approx(math.log(17))


def test_a_long_text_costs_its_entropy():
    """Zipf's law over 50 tokens, its entropy in closed form; smoothing and drawing add (V - 1) / 2n nats or so."""
    p = 1 / np.arange(1, 51)
    p /= p.sum()
    rng = np.random.default_rng(0)
    training, validation = ([batch(rng.choice(50, (100, 1000), p=p))] for _ in range(2))
    assert guess(training, validation, 50).loss == pytest.approx(-(p * np.log(p)).sum(), abs=0.01)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=20), min_size=1, max_size=4))
def test_it_is_the_cross_entropy_of_smoothed_frequencies(rows):
    """And no constant guess beats the one that was counted on the very targets, but for the smoothing."""
    batches = [batch([row]) for row in rows]
    tokens = np.concatenate(rows)
    p = (np.bincount(tokens, minlength=10) + 1) / (len(tokens) + 10)
    assert guess(batches, batches, 10).loss == pytest.approx(-np.log(p[tokens]).mean())


def test_sentence_pairs_weigh_as_their_accuracy_does():
    """A pair with three targets counts thrice, and one of padding not at all."""
    weights = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], np.float32)
    pairs = batch([[1, 2, 3], [3, 0, 0], [0, 0, 0]], weights, sentence_targets=np.array([1, 0, 0], np.int32))
    assert guess([pairs], [pairs], 4).sentence_accuracy == pytest.approx(3 / 4)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory) -> Experiment:
    root, rng = tmp_path_factory.mktemp("corpus"), random.Random(0)
    (root / "text").mkdir()
    for number in range(30):
        words = [rng.choice(["spam", "eggs", "ham"]) for _ in range(100 + number)]
        (root / "text" / f"{number:02}.txt").write_text(" ".join(words))
    return Experiment(
        name="tiny",
        model=BertConfig(
            vocab_size=384, context_length=64, width=16, num_layers=1, num_heads=2, mlp_width=16, head="pretraining"
        ),
        objective=MaskedLM(sentence="nsp"),
        data=TextConfig(
            path=str(root / "text"), tokenizer="bytes", validation_fraction=0.3, cache_dir=str(root / "cache")
        ),
        train=TrainConfig(batch_size=8, seq_len=64, accumulation=2, eval_batches=3),
        mesh=MeshConfig(data=1),
    )


@pytest.fixture(scope="module")
def session(experiment):
    return Session(experiment)


def test_a_run_is_measured_on_the_rows_that_it_evaluates(session, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 128)

    def made(records, index, rng):
        found = session.example(records.draw(index, rng), rng)
        return {name: np.asarray(found[name])[None] for name in ("targets", "weights", "sentence_targets")}

    # The evaluation reads 3 batches of 8 / 2 rows, in order, and hides the same each time.
    validation = [made(session.dataset.validation, index, np.random.default_rng(index)) for index in range(12)]
    steps, kinds = iter(session.training_rows), session.dataset.tokenizer.vocab_size
    training = [next(steps) for _ in range(128 // 8)]
    assert baseline(session, session.dataset) == guess(training, validation, kinds)


def test_the_batch_does_not_change_the_guess(experiment, session):
    """All of the validation text is read, however it is cut; and of a long one no more than the first rows."""
    whole = dataclasses.replace(experiment.train, eval_batches=None)
    found = [
        baseline(Session(dataclasses.replace(experiment, train=train), dataset=session.dataset), session.dataset)
        for train in (dataclasses.replace(whole, batch_size=size) for size in (8, 20))
    ]
    assert found[0] == pytest.approx(found[1])
