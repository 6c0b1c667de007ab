"""Vectors of texts against PyTorch: side by side in a row texts are what they are alone; losses are the formulas."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch

from tests.exhaustive import few
from tests.interop import parity
from transformer.data.examples.config import ExamplesConfig
from transformer.errors import UserError
from transformer.interop.bert import BERT
from transformer.models.bert import BertConfig
from transformer.objectives.sentence_embeddings import SentenceEmbeddings
from transformer.parallel.mesh import MeshConfig
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.session import Session

MODEL = BertConfig(
    vocab_size=400, context_length=96, width=24, num_layers=2, num_heads=2, mlp_width=40, head="none",
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
STEPS, LENGTH = 20, 32


@pytest.fixture(scope="module", params=few(("pairs", "triples", "scored"), "pairs"))
def pairs(request):
    return request.param


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "groups.jsonl"
    rng = np.random.default_rng(0)
    rows = []
    for number in range(120):
        words = [f"{'abc'[number % 3]}{number} {'x' * int(rng.integers(25))}" for _ in range(3)]
        rows.append({"text": words[0], "pair": words[1], "negative": words[2], "label": float(rng.uniform(0, 5))})
    path.write_text("\n".join(map(json.dumps, rows)))
    return ExamplesConfig(path=str(path), pair_field="pair", negative_field="negative", tokenizer="bytes")


def session(pairs, data, mesh=MeshConfig(data=1), batch_size=6):
    optimizer = OptimizerConfig(
        learning_rate=1e-3, schedule="constant", warmup_steps=0, weight_decay=0.0, b2=0.999, clip_norm=None
    )
    train = TrainConfig(steps=STEPS, batch_size=batch_size, seq_len=LENGTH)
    return Session(Experiment("test", MODEL, SentenceEmbeddings(pairs), data, optimizer, train=train, mesh=mesh))


def vectors(model, tokens, mask):
    hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
    means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return torch.nn.functional.normalize(means, dim=-1)


def their_loss(model, batch, pairs):
    """As sentence-transformers' MultipleNegativesRankingLoss and CosineSimilarityLoss have it, a text a row."""
    size = 3 if pairs == "triples" else 2
    split = {
        name: torch.tensor(np.asarray(values)).long().reshape(len(values), size, -1).unbind(1)
        for name, values in batch["inputs"].items()
    }
    masks = [(segment_ids > 0).long() for segment_ids in split["segment_ids"]]
    found = [vectors(model, *each) for each in zip(split["tokens"], masks, strict=True)]
    if pairs == "scored":
        return torch.nn.functional.mse_loss((found[0] * found[1]).sum(-1), torch.tensor(np.asarray(batch["targets"])))
    scores = 20.0 * found[0] @ torch.cat(found[1:]).T
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(scores)))


def test_twenty_steps_equal_pytorchs(pairs, data):
    ours = session(pairs, data)
    pair = parity.make_pair(BERT, MODEL)
    theirs, optimizer = pair.theirs.train(), torch.optim.AdamW(pair.theirs.parameters(), lr=1e-3, weight_decay=0.0)
    with jax.set_mesh(ours.mesh), ours.batches() as batches:
        state = dataclasses.replace(ours.program.init(), params=pair.params)
        for _ in range(STEPS):
            batch = next(batches)
            loss = their_loss(theirs, batch, pairs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state, metrics = ours.program.step(state, batch)
            assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-4, abs=1e-6)


def test_an_evaluation_scores_all_groups(pairs, data):
    ours = session(pairs, data)
    with jax.set_mesh(ours.mesh):
        evaluation = ours.evaluate(ours.initial_state().params)
    names = {"pearson", "spearman", "mse"} if pairs == "scored" else {"accuracy", "recall@1", "recall@5"}
    assert set(evaluation.metrics) == names
    assert evaluation.targets == len(ours.dataset.validation) > 6


def test_a_mesh_changes_nothing(pairs, data):
    found = []
    for mesh in (MeshConfig(data=1), MeshConfig(data=4, tensor=2)):
        ours = session(pairs, data, mesh, batch_size=8)
        with jax.set_mesh(ours.mesh):
            state, metrics = ours.program.step(ours.initial_state(), ours.batch(1))
            found.append((float(metrics["loss"]), float(metrics["grad_norm"]), ours.evaluate(state.params).loss))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


def test_padding_meets_nobody(data):
    """A batch that is filled up has the loss of its groups alone."""
    ours = session("pairs", data, batch_size=8)
    with jax.set_mesh(ours.mesh):
        params = ours.initial_state().params
        batch = jax.tree.map(np.array, ours.batch(1))
        batch["weights"][5:] = 0
        part = jax.tree.map(lambda values: values[:5], batch)
        losses = [ours.program.evaluate(params, each).sums.metrics["nll"] for each in (batch, part)]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-5)


def test_what_is_lacking_is_a_line(data):
    lacking = dataclasses.replace(data, negative_field=None)
    with pytest.raises(UserError, match="name the field with the negative text: --data.negative-field"):
        _ = session("triples", lacking).dataset
    model = dataclasses.replace(MODEL, context_length=80)
    with pytest.raises(UserError, match="for rows of 96 tokens, is longer than the model's context of 80"):
        Experiment("test", model, SentenceEmbeddings("triples"), data, train=TrainConfig(seq_len=LENGTH))
