"""Whole models over a split sequence: the loss, its metrics and the gradients of one device's."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.exhaustive import few
from tests.tiny_models import TINY, random_params
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.objectives.causal_lm import CausalLM
from transformer.objectives.masked_lm import MaskedLM
from transformer.objectives.span_corruption import SpanCorruption
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.program import Program

B, T, S = 2, 16, 8
OBJECTIVES = {"decoder": CausalLM(), "encoder": MaskedLM(), "encoder_decoder": SpanCorruption()}


def text(rng: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    """Rows of a long document, a short one and padding, one of them all padding at first."""
    segments = np.zeros((B, length), np.int32)
    segments[0, : length // 2], segments[0, length // 2 : length - 2] = 1, 2
    segments[1, length // 2 :] = 1
    positions = np.zeros((B, length), np.int32)
    for row, ids in enumerate(segments):
        for number in set(ids.tolist()) - {0}:
            positions[row, ids == number] = np.arange((ids == number).sum())
    tokens = rng.integers(3, 32, (B, length)).astype(np.int32)
    return {"tokens": tokens, "positions": positions, "segment_ids": segments}


def batch_of(kind: str, places: int) -> dict:
    rng = np.random.default_rng(0)
    inputs = text(rng, T)
    count = T if kind == "decoder" else places
    weights = (inputs["segment_ids"] > 0).astype(np.float32)
    if kind == "encoder":
        inputs["masked_positions"] = np.sort(rng.permuted(np.tile(np.arange(T), (B, 1)), axis=1)[:, :places])
        inputs["masked_positions"] = inputs["masked_positions"].astype(np.int32)
        weights = np.take_along_axis(weights, inputs["masked_positions"], axis=1)
    elif kind == "encoder_decoder":
        target = text(rng, S)
        weights, count = (target["segment_ids"] > 0).astype(np.float32), S
        inputs |= {f"decoder_{name}": values for name, values in target.items()}
    return {"inputs": inputs, "targets": rng.integers(3, 32, (B, count)).astype(np.int32), "weights": weights}


def gradients(family: str, sizes: dict[str, int], places: int = 5, chunk: int | None = None, **execution) -> dict:
    """What a step has computed of the first batch before it updates."""
    model = TINY[family]
    if model.kind == "encoder":
        model = dataclasses.replace(model, head="masked_lm")
    objective = dataclasses.replace(OBJECTIVES[model.kind], chunk=chunk)
    experiment = Experiment(
        name="tiny",
        model=model,
        objective=objective,
        train=TrainConfig(batch_size=B, seq_len=T),
        execution=Execution(**execution),
    )
    mesh = make_mesh(MeshConfig(**sizes))
    with jax.set_mesh(mesh):
        program = Program(experiment, mesh)
        state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), program.abstract)
        state = dataclasses.replace(state, params=jax.tree.map(jnp.asarray, random_params(model)))
        loss, metrics, grads = jax.jit(program.gradients)(state, batch_of(model.kind, places))
    return jax.device_get({"loss": loss, "metrics": metrics, "gradients": grads})


def assert_equal(have, want) -> None:
    """Within 1e-5 of the largest number of each array."""
    for (path, array), expected in zip(jax.tree.leaves_with_path(have), jax.tree.leaves(want), strict=True):
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(array / scale, expected / scale, atol=1e-5, err_msg=jax.tree_util.keystr(path))


ONE = {"data": 1}
# Of gathered keys, test_meshes.py has the other kinds.
CASES = [
    *((family, "gather") for family in ("deepseek", "bart")),
    *((family, "ring") for family in ("gpt", "llama", "deepseek", "roberta", "bart")),
]


@pytest.mark.parametrize(("family", "context"), few(CASES, ("llama", "ring")))
def test_a_step_over_a_split_sequence_is_that_of_one_device(family, context):
    have = gradients(family, {"data": 1, "sequence": 4}, context=context)
    assert_equal(have, gradients(family, ONE))


@pytest.mark.parametrize(("context", "collective"), [("gather", "all_gather"), ("ring", "ppermute")])
@pytest.mark.parametrize("family", few([name for name, model in TINY.items() if model.kind == "decoder"], "deepseek"))
def test_keys_come_as_was_asked(family, context, collective):
    """Equal numbers do not tell: without it the compiler splits attention, in its own way."""
    with jax.set_mesh(make_mesh(MeshConfig(data=1, sequence=4))):
        model = TINY[family].build(Execution(context=context))
        tokens = jnp.zeros((B, T), jnp.int32)
        jaxpr = jax.make_jaxpr(lambda params: model.apply({"params": params}, tokens))(random_params(TINY[family]))
    assert f"= {collective}[" in str(jaxpr)


@pytest.mark.exhaustive
@pytest.mark.parametrize("sizes", [{"data": 2, "tensor": 2, "sequence": 2}, {"data": 1, "fsdp": 2, "sequence": 4}])
def test_a_ring_with_other_axes(sizes):
    sizes = {"data": 1, **sizes}
    assert_equal(gradients("llama", sizes, context="ring"), gradients("llama", ONE))


@pytest.mark.exhaustive
@pytest.mark.parametrize(("context", "chunk"), [("gather", None), ("ring", 3)])
def test_with_rematerialisation_and_chunks(context, chunk):
    sizes = {"data": 1, "sequence": 4}
    have = gradients("llama", sizes, context=context, remat="full", chunk=chunk)
    assert_equal(have, gradients("llama", ONE))


@pytest.mark.exhaustive
@pytest.mark.parametrize("places", [4, 5])
def test_masked_words_over_a_split_sequence(places):
    have = gradients("roberta", {"data": 1, "sequence": 4}, places)
    assert_equal(have, gradients("roberta", ONE, places))


@pytest.mark.parametrize("family", ["llama", "deepseek"])
def test_decoders_attend_in_a_ring_if_asked(family):
    """Where a layer left that to the compiler, numbers would be the same, and each device's memory not."""
    model, tokens = TINY[family].build(Execution(context="ring")), jnp.zeros((B, T), jnp.int32)
    with jax.set_mesh(make_mesh(MeshConfig(data=1, sequence=4))):
        traced = jax.make_jaxpr(lambda params: model.apply({"params": params}, tokens).hidden_BTD)
        assert "ppermute" in str(traced(nn.meta.unbox(TINY[family].abstract_params())))


def test_ring_refuses_relative_biases():
    with pytest.raises(
        UserError, match="ring does not support a bias of its scores .*: choose --execution.context gather"
    ):
        gradients("t5", {"data": 1, "sequence": 4}, context="ring")
