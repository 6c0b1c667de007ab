"""A pipeline computes what one device does: losses, gradients and updates; and nothing of its bubble gets out."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.exhaustive import few
from tests.tiny_models import TINY, random_params
from tests.training.test_program import make_batch
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig
from transformer.ops.cross_entropy import cross_entropy
from transformer.parallel.layout import batch_sharding, param_shardings
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.parallel.pipeline import Pipeline, pipeline_of, pipeline_on
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.program import Program

MODEL = GPTConfig(vocab_size=64, context_length=32, width=16, num_layers=4, num_heads=2, dropout=0.0)
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, schedule="constant", warmup_steps=0)
EIGHT = np.arange(8, dtype=np.int32)


def _unit(x, weight, common, shared):
    """A layer whose value and gradient of a row of zeros, which a bubble holds, are NaN; it returns two sums."""
    times, bias, odd = shared
    x = x / jnp.sqrt(jnp.square(x).sum(axis=-1, keepdims=True)) @ weight * common + times[:, None] + bias
    return x, {"sum": x.sum(), "odd": odd.sum()}


@pytest.mark.parametrize("microbatches", [2, 8])
def test_nothing_of_the_bubble_gets_out(microbatches):
    rng = np.random.default_rng(0)
    x, weights, common, times, bias = (
        rng.normal(size=shape).astype(np.float32) for shape in ((16, 5), (8, 5, 5), (5,), (16,), (1, 5))
    )
    odd = np.arange(16, dtype=np.int32) % 2

    def loss(arrays, run):
        x, weights, common, times, bias = arrays
        out, sums = run(_unit, x, weights, common[None], (times, bias, odd))
        return jnp.square(out).sum() + jnp.square(sums["sum"]).sum() * 1e-3, sums["odd"]

    def plain(layer, x, weights, common, shared):
        return jax.lax.scan(lambda x, weight: layer(x, weight, common, shared), x, weights)

    def wanted_and_had(run):
        return jax.jit(jax.value_and_grad(functools.partial(loss, run=run), has_aux=True))

    arrays = (x, weights, common, times, bias)
    want = wanted_and_had(plain)(arrays)
    with jax.set_mesh(make_mesh(MeshConfig(data=2, pipeline=4))):
        have = wanted_and_had(Pipeline(4, microbatches).run)(arrays)
    assert have[0][1].tolist() == [8] * 8
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), have, want)


def three_steps(mesh_config, dropout, accumulation=1, **execution):
    """The losses of three updates, the gradients of the first, and the parameters after the last."""
    model = dataclasses.replace(MODEL, dropout=dropout)
    train = TrainConfig(steps=100, batch_size=8, seq_len=32, accumulation=accumulation)
    experiment = Experiment("tiny", model, optimizer=OPTIMIZER, train=train, execution=Execution(**execution))
    mesh = make_mesh(mesh_config)
    program = Program(experiment, mesh)

    def update(state, batch):  # as `step` does, and the gradients: compiled once
        loss_sum, sums, gradients = program.gradients(state, batch, {})
        state, metrics = program.update(state, loss_sum, sums, gradients)
        return state, metrics["loss"], gradients

    with jax.set_mesh(mesh):
        state, compiled, updates = program.init(), jax.jit(update), []
        for seed in range(3):
            state, *made = compiled(state, jax.device_put(make_batch(seed), batch_sharding(mesh)))
            updates.append(made)
    losses = [float(loss) for loss, _ in updates]
    return losses, jax.tree.map(np.asarray, updates[0][1]), jax.tree.map(np.asarray, state.params)


one_device = functools.cache(functools.partial(three_steps, MeshConfig(data=1)))

CASES = [
    (mesh, dropout, accumulation, execution)
    for mesh, execution in [
        (MeshConfig(data=1, pipeline=4), {}),
        (MeshConfig(data=1, pipeline=4), {"microbatches": 2, "remat": "full"}),
        (MeshConfig(data=2, pipeline=2), {"unroll": 0}),
        (MeshConfig(data=1, fsdp=2, pipeline=2), {"microbatches": 4, "remat": "dots"}),
        (MeshConfig(data=1, tensor=2, pipeline=2), {}),
        (MeshConfig(data=2, fsdp=2, pipeline=2), {}),
    ]
    for dropout, accumulation in ([(0.0, 1), (0.3, 2)] if "microbatches" not in execution else [(0.3, 1)])
]


@pytest.mark.parametrize(("mesh", "dropout", "accumulation", "execution"), few(CASES), ids=str)
def test_a_run_is_that_of_one_device(mesh, dropout, accumulation, execution):
    """Packed rows; with dropout, neither accumulation nor a pipeline changes a mask."""
    losses, gradients, params = three_steps(mesh, dropout, accumulation, **execution)
    want_losses, want_gradients, want_params = one_device(dropout)
    np.testing.assert_allclose(losses, want_losses, atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), gradients, want_gradients)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-4), params, want_params)


def _deeper(family: str, dropout: float) -> Any:
    """The tiny model of a family with four layers, and dropout wherever it has some."""
    config = TINY[family]
    sizes = {"num_layers": 4, "num_encoder_layers": 2, "num_decoder_layers": 4}
    rates = dict.fromkeys(("dropout", "attention_dropout", "mlp_dropout"), dropout)
    return dataclasses.replace(config, **{k: v for k, v in (sizes | rates).items() if hasattr(config, k)})


def _inputs(config, *, positions: bool) -> dict[str, np.ndarray]:
    """Eight rows of two documents and padding, on either side."""
    rng = np.random.default_rng(0)
    segments = np.repeat(np.array([[1] * 9 + [2] * 4 + [0] * 3, [0] * 3 + [1] * 13], np.int32), 4, axis=0)
    inputs = {"tokens": rng.integers(0, 32, (8, 16)).astype(np.int32), "segment_ids": segments}
    if positions:
        inputs["positions"] = np.tile(np.arange(16, dtype=np.int32), (8, 1))
    if config.kind == "decoder":
        inputs["prefix"] = np.tile((np.arange(16) < 3).astype(np.int32), (8, 1)) * (segments == 1)
    if config.kind == "encoder_decoder":
        inputs |= {f"decoder_{name}": np.roll(array[:, 4:], 1, axis=0) for name, array in inputs.items()}
    return inputs


FAMILIES = [
    (family, mesh, dropout)
    for family in ("gpt", "llama", "bert", "albert", "t5", "bart")
    for mesh in (MeshConfig(data=1, fsdp=2, tensor=2, pipeline=2),)
    for dropout in (0.3,)
]


@pytest.mark.parametrize(("family", "mesh", "dropout"), few(FAMILIES), ids=str)
def test_every_kind_of_stack(family, mesh, dropout):
    """Groups of layers (GPT's bands), windows, prefixes, shared layers, a bias for all rows, an encoder's memory."""
    config = _deeper(family, dropout)
    inputs = _inputs(config, positions=family != "t5")  # without them, T5's bias is one for all rows
    length = inputs.get("decoder_tokens", inputs["tokens"]).shape[1]
    targets = np.random.default_rng(1).integers(0, 32, (8, length)).astype(np.int32)
    rngs = {"dropout": jax.random.key(0)} if dropout else {}

    def loss(params, inputs, targets):
        model = config.build(Execution(microbatches=4))
        out = model.apply({"params": params}, **inputs, deterministic=not dropout, rngs=rngs)
        weights = jnp.ones(targets.shape, jnp.float32)
        total, weight, _ = cross_entropy(out.hidden_BTD, out.unembedding_VD, targets, weights, bias=out.bias_V)
        return total / weight

    params = random_params(config)
    want = jax.tree.map(np.asarray, jax.jit(jax.value_and_grad(loss))(params, inputs, targets))
    devices = make_mesh(mesh)
    with jax.set_mesh(devices):
        placed = jax.device_put(params, param_shardings(config.abstract_params(), devices))
        rows = NamedSharding(devices, PartitionSpec(("data", "fsdp")))
        have = jax.jit(jax.value_and_grad(loss))(placed, *jax.device_put((inputs, targets), rows))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), have, want)


@pytest.mark.parametrize(
    ("stages", "rows", "parts", "want"), [(4, 64, 2, 16), (4, 24, 2, 12), (4, 12, 1, 12), (2, 6, 2, 3), (4, 2, 2, 1)]
)
def test_chooses_microbatches(stages, rows, parts, want):
    mesh = jax.sharding.AbstractMesh((parts, 1, stages, 1), ("data", "fsdp", "pipeline", "expert"))
    pipeline = pipeline_on(mesh, None, rows)
    assert pipeline == Pipeline(stages, want)
    assert Pipeline(stages, want).describe().startswith("warning: ") == (want < stages)


def test_one_row_of_an_update_needs_no_microbatches():
    """As a replay looks at each row, whatever an update is cut into."""
    with jax.set_mesh(make_mesh(MeshConfig(data=2, pipeline=4))):
        assert pipeline_of(4, 4, 1) == Pipeline(4, 1)


def test_states_its_bubble():
    assert "idle in 3 of 19 ticks, 16% (the bubble)" in Pipeline(4, 16).describe()
    assert "idle in 3 of 5 ticks, 60% (the bubble): there are fewer microbatches" in Pipeline(4, 2).describe()


@pytest.mark.parametrize(
    ("microbatches", "layers", "rows", "cached", "message"),
    [
        (None, 6, 8, False, "a stack of 6 layers is not divided by --mesh.pipeline 4"),
        (3, 4, 8, False, "8 rows is not divided by --execution.microbatches 3"),
        (8, 4, 8, False, "= 1 rows are not divided by the mesh's data x fsdp x expert = 2 devices"),
        (None, 4, 8, True, "a cache has no pipeline: use --mesh.pipeline 1"),
    ],
)
def test_refuses(microbatches, layers, rows, cached, message):
    with jax.set_mesh(make_mesh(MeshConfig(data=2, pipeline=4))), pytest.raises(UserError, match=message):
        pipeline_of(microbatches, layers, rows, cached=cached)


@pytest.mark.parametrize(
    ("config", "modules"),
    [
        (dataclasses.replace(TINY["t5"], num_encoder_layers=2, experts=TINY["olmoe"].experts), 2),
        (dataclasses.replace(TINY["llama"], num_layers=8, dense_layers=(2, 3), experts=TINY["olmoe"].experts), 2),
    ],
    ids=["encoder_decoder", "runs"],
)
def test_routers_of_several_stacks_are_told_apart(config, modules):
    """By the paths that they have without a pipeline: biases are found by them, and none hides another's sums."""
    params, inputs = nn.meta.unbox(config.abstract_params()), {"tokens": np.tile(EIGHT, (8, 2))}
    if config.kind == "encoder_decoder":
        inputs["decoder_tokens"] = inputs["tokens"]

    def shapes(mesh):
        with jax.set_mesh(make_mesh(mesh)):
            model = config.build(Execution())
            return jax.eval_shape(lambda params: model.apply({"params": params}, **inputs).routers, params)

    have, want = shapes(MeshConfig(data=1, pipeline=2)), shapes(MeshConfig(data=1))
    assert len(want) == modules
    assert have == want


def test_layers_that_are_looked_into_show_whole_batches():
    """What is sown has a layer's whole batch, as without a pipeline."""
    config = _deeper("llama", 0.0)
    params, tokens = random_params(config), np.tile(EIGHT, (8, 2)) % 7
    with jax.set_mesh(make_mesh(MeshConfig(data=2, pipeline=4))):
        model = config.build(Execution())
        _, left = jax.eval_shape(lambda: model.apply({"params": params}, tokens, mutable=["intermediates"]))
    assert left["intermediates"]["backbone"]["stack"]["layers"]["hidden"].shape == (4, 8, 16, config.width)


def test_stages_keep_their_own_layers():
    boxed = MODEL.abstract_params()
    shardings = param_shardings(boxed, make_mesh(MeshConfig(data=2, pipeline=4)))
    layers, shapes = (tree["backbone"]["stack"]["layers"] for tree in (shardings, nn.meta.unbox(boxed)))
    parts = jax.tree.map(lambda sharding, leaf: sharding.shard_shape(leaf.shape)[0], layers, shapes)
    assert set(jax.tree.leaves(parts)) == {1}
