"""Fine-tuning beside PyTorch: the same updates of a tiny model, from the same weights and batches."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from tests.interop import parity
from transformer.interop.bert import BERT
from transformer.models.bert import BertConfig
from transformer.parallel.mesh import MeshConfig
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.session import Session

STEPS, RATE = 20, 1e-3
SIZES = {"vocab_size": 400, "context_length": 32, "width": 24, "num_layers": 2, "num_heads": 2}
TINY = BertConfig(**SIZES, mlp_width=40, dropout=0.0, attention_dropout=0.0)


def experiment(model, objective, data, **train):
    """A tiny run at a constant rate, without decay and clipping, as the plain AdamW of PyTorch makes updates."""
    return Experiment(
        name="test",
        model=model,
        objective=objective,
        data=data,
        optimizer=OptimizerConfig(
            learning_rate=RATE, schedule="constant", warmup_steps=0, weight_decay=0.0, b2=0.999, clip_norm=None
        ),
        mesh=MeshConfig(data=1),
        train=TrainConfig(**{"steps": STEPS, "batch_size": 8, "seq_len": SIZES["context_length"], **train}),
    )


def asked(batch):
    """The inputs of Transformers' model."""
    inputs = {name: torch.tensor(np.asarray(values)).long() for name, values in batch["inputs"].items()}
    fields = {"input_ids": inputs["tokens"], "attention_mask": (inputs["segment_ids"] > 0).long()}
    return fields | ({"token_type_ids": inputs["token_types"]} if "token_types" in inputs else {})


def assert_updates_equal_pytorchs(session, their_loss, *, family=BERT):
    """Twenty losses to 1e-4; returns the last batch, our state and their model, in evaluation mode."""
    pair = parity.make_pair(family, session.experiment.model, pad_token_id=0)
    theirs = pair.theirs.train()
    for module in theirs.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # a decoder's head of tokens has one that its config does not name
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=RATE, weight_decay=0.0)
    found = []
    with jax.set_mesh(session.mesh), session.batches() as batches:
        state = dataclasses.replace(session.program.init(), params=pair.params)
        for _ in range(STEPS):
            batch = next(batches)
            loss = their_loss(theirs, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state, metrics = session.program.step(state, batch)
            found.append(loss.item())
            assert float(metrics["loss"]) == pytest.approx(found[-1], rel=1e-4)
    assert np.mean(found[-4:]) < np.mean(found[:4])
    return batch, state, theirs.eval()


def assert_near(ours, theirs):
    """Scores that differ by no more than 1e-4 of the largest."""
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


def scores(session, params, batch):
    """The model's scores of a batch, [B, ...] or [B, T, ...]."""
    program = session.program
    objective, seen = session.experiment.objective, {}

    def catch(outputs, batch):
        seen["logits"] = outputs.logits
        return {"logits": outputs.logits}

    with pytest.MonkeyPatch.context() as patch, jax.set_mesh(session.mesh):
        patch.setattr(type(objective), "predictions", lambda self, outputs, batch: catch(outputs, batch))
        return jax.jit(program._evaluate)(params, batch, program.frozen).predictions["logits"]


def assert_nothing_changes_over_meshes(base):
    """One update's loss and an evaluation by itself, in microbatches, and on four devices."""
    losses = []
    meshes = (MeshConfig(data=1), 1), (MeshConfig(data=1), 2), (MeshConfig(data=2, tensor=2), 1)
    for mesh, parts in meshes:
        train = dataclasses.replace(base.train, accumulation=parts)
        session = Session(dataclasses.replace(base, mesh=mesh, train=train))
        with jax.set_mesh(session.mesh):
            state, metrics = session.program.step(session.initial_state(), session.batch(1))
            evaluation = session.evaluate(state.params)
        losses.append([float(metrics["loss"]), evaluation.loss, *evaluation.metrics.values()])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-4)


def assert_narrow_batches_weigh_as_whole_ones(session):
    """A batch cut to its longest example has the loss of the whole rows."""
    example = session.example
    records = session.dataset.train[0]
    chosen = np.argsort(records.lengths, kind="stable")[:4]
    rngs = [np.random.default_rng(0)] * len(chosen)
    whole = example.batch(records.draw_many(chosen, rngs), rngs)
    narrow = example.cut(whole, int(records.lengths[chosen].max()))
    with jax.set_mesh(session.mesh):
        params = session.initial_state().params
        sums = [session.program.evaluate(params, batch).sums for batch in (whole, narrow)]
    shapes = [jax.tree.leaves(jax.tree.map(np.shape, batch)) for batch in (whole, narrow)]
    assert shapes[0] != shapes[1]
    assert sums[0].weight == sums[1].weight > 0
    np.testing.assert_allclose(sums[0].metrics["nll"], sums[1].metrics["nll"], rtol=1e-5)
