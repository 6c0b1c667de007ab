"""Whole models over a split sequence: the loss, its metrics and the gradients of one device's."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.exhaustive import few
from tests.tiny_experiments import ROWS, experiment_of
from tests.tiny_experiments import batch_of as a_batch
from tests.tiny_models import TINY, random_params
from transformer.data.records import stack
from transformer.debugging.parallel_check import Reference
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models.vit import ViTConfig
from transformer.objectives.causal_lm import CausalLM
from transformer.objectives.masked_lm import MaskedLM
from transformer.objectives.masked_pixels import MaskedPixels
from transformer.objectives.span_corruption import SpanCorruption
from transformer.parallel.context import CONTEXTS
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


def gradients(
    family: str,
    sizes: dict[str, int],
    places: int = 5,
    chunk: int | None = None,
    reads: tuple[str, ...] | None = None,
    **execution,
) -> dict:
    """What a step has computed of the first batch before it updates; of its inputs, the model gets those it `reads`."""
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
        batch = batch_of(model.kind, places)
        inputs = {name: values for name, values in batch["inputs"].items() if reads is None or name in reads}
        loss, metrics, grads = jax.jit(program.gradients)(state, batch | {"inputs": inputs}, {})
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


# Models of images and of speech whose lengths 2 divides: of two towers both, and of a masked autoencoder.
READERS = {
    "vit": TINY["vit"],
    "mae": dataclasses.replace(
        TINY["vit"], head="masked_pixels", pooling="mean", kept_patches=4, decoder_width=8, decoder_layers=1,
        decoder_heads=2,
    ),
    "dinov2": TINY["dinov2"],
    "clip": dataclasses.replace(TINY["clip"], image_size=6),
    "whisper": TINY["whisper"],
}  # fmt: skip


def masked(model: ViTConfig, objective: MaskedPixels) -> dict:
    """A batch of a masked autoencoder."""
    rng = np.random.default_rng(0)
    records = [{"image": rng.normal(size=model.input_size), "there": np.float32(1)} for _ in range(ROWS)]
    records = [record | {"image": record["image"].astype(np.float32)} for record in records]
    return stack([objective.example(record, rng, objective.bare_setting(0, model)) for record in records])


@pytest.mark.parametrize(
    ("name", "context"), few([(name, context) for name in READERS for context in CONTEXTS], ("vit", "ring"))
)
def test_a_step_over_split_patches_or_frames_is_that_of_one_device(name, context):
    model = READERS[name]
    objective = MaskedPixels() if name == "mae" else None
    experiment = experiment_of(model, objective=objective, execution=Execution(dtype="float32", context=context))
    batch = masked(model, experiment.objective) if isinstance(experiment.objective, MaskedPixels) else a_batch(model)
    reference = Reference(experiment, [batch], random_params(model))
    assert reference.compare(MeshConfig(data=2, sequence=2)).first is None


@pytest.mark.parametrize(("context", "collective"), [("gather", "all_gather"), ("ring", "ppermute")])
@pytest.mark.parametrize("name", READERS)
def test_patches_and_frames_are_split(name, context, collective):
    model = READERS[name]
    params = nn.meta.unbox(model.abstract_params())
    with jax.set_mesh(make_mesh(MeshConfig(data=1, sequence=2))):
        module = model.build(Execution(context=context))
        jaxpr = jax.make_jaxpr(lambda params, inputs: module.apply({"params": params}, **inputs))
        traced = str(jaxpr(params, model.example_inputs(B, 2)))
    # Of both towers, of an encoder and of what answers it: each stack's.
    assert traced.count(f"= {collective}[") >= 2 * len(model.stacks)


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


@pytest.mark.parametrize("context", few(CONTEXTS, "ring"))
def test_concatenated_documents_over_a_split_sequence(context):
    """Where tokens stand in a row is all that tells their order, and a ring deals them out anew."""
    have = gradients("llama", {"data": 1, "sequence": 4}, reads=("tokens",), context=context)
    assert_equal(have, gradients("llama", ONE, reads=("tokens",)))


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
