"""Saved on any of {1, 2, 4, 8 devices} x {data, fsdp, tensor}, with ZeRO-1 or not, restored on any other: equal."""

import dataclasses
import itertools
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.exhaustive import few
from transformer.checkpoint import Checkpoints
from transformer.models.gpt import GPTConfig
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.program import Program

LAYOUTS = {
    "one": MeshConfig(data=1),
    **{
        f"{axis} {size}": MeshConfig(**{"data": 1, axis: size})
        for axis, size in itertools.product(("data", "fsdp", "tensor"), (2, 4, 8))
    },
    "zero1 8": MeshConfig(data=8, zero1=True),
    "zero1 4, fsdp 2": MeshConfig(data=4, fsdp=2, zero1=True),
}


@pytest.fixture(scope="module")
def abstract():
    """Layout -> the abstract training state on it."""
    model = GPTConfig(vocab_size=64, context_length=16, width=16, num_layers=2, num_heads=8)
    train = TrainConfig(steps=10, batch_size=8, seq_len=16)
    experiment = Experiment("tiny", model, optimizer=OptimizerConfig(name="adamw"), train=train)
    return {
        name: Program(dataclasses.replace(experiment, mesh=mesh), make_mesh(mesh)).abstract
        for name, mesh in LAYOUTS.items()
    }


@pytest.fixture(scope="module")
def values(abstract):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), abstract["one"])


@pytest.mark.parametrize("saved_on", few(LAYOUTS))
def test_a_checkpoint_comes_back_on_every_layout(saved_on, abstract, values, tmp_path):
    state = jax.tree.map(lambda leaf, value: jax.device_put(value, leaf.sharding), abstract[saved_on], values)
    with Checkpoints(tmp_path) as store:
        store.save(1, params=state.params, opt_state=state.opt_state, data={"step": 1}, record={})
        assert store.outcome(wait=True).failure is None
        for aim in abstract.values():
            params, opt_state, _ = store.restore(1, params=aim.params, opt_state=aim.opt_state)
            for have, want, target in zip(
                jax.tree.leaves((params, opt_state)),
                jax.tree.leaves((values.params, values.opt_state)),
                jax.tree.leaves((aim.params, aim.opt_state)),
                strict=True,
            ):
                assert have.sharding == target.sharding
                np.testing.assert_array_equal(np.asarray(have), want)


@pytest.mark.parametrize("saved_on", ["fsdp 8", "fsdp 2", "data 8", "one"])
def test_each_byte_is_read_once(saved_on, tmp_path):
    """Also where all eight devices want a part of every stored piece. By the system's count of what was read."""
    counter = Path("/proc/self/io")
    if not counter.exists():
        pytest.skip("the system does not count the bytes that a process reads")
    specs = {"one": P(), "data": P(), "fsdp": P(None, "fsdp"), "tensor": P(None, None, "tensor")}

    def sharding(name):
        return NamedSharding(make_mesh(LAYOUTS[name]), specs[name.split()[0]])

    weights = np.random.default_rng(0).normal(size=(4, 256, 1024)).astype(np.float32)
    with Checkpoints(tmp_path) as store:
        params = {name: jax.device_put(weights, sharding(saved_on)) for name in "abcd"}
        store.save(1, params=params, opt_state={"step": np.zeros((), np.int32)}, data={"step": 1}, record={})
        size = store.outcome(wait=True).size
        aim = {
            name: jax.ShapeDtypeStruct(weights.shape, weights.dtype, sharding=sharding("tensor 8")) for name in "abcd"
        }
        for _ in range(3):
            before = counter.read_text()
            store.restore(1, params=aim, opt_state={"step": np.zeros((), np.int32)})
            read = [int(text.split()[1]) for text in (before, counter.read_text())]
            assert 0.95 * size < read[1] - read[0] < 1.05 * size


@pytest.mark.exhaustive
def test_the_layouts_differ(abstract):
    """Else the matrix would say nothing: each layout but data's cuts some parameters, and each its own way."""
    specs = {
        name: str(jax.tree.map(lambda leaf: leaf.sharding.shard_shape(leaf.shape), aim.params))
        for name, aim in abstract.items()
    }
    assert len(set(specs.values())) == 7
    assert specs["one"] == specs["data 2"] == specs["data 8"] == specs["zero1 8"]
    moments = {
        str(jax.tree.map(lambda leaf: leaf.sharding.shard_shape(leaf.shape), aim.opt_state))
        for aim in abstract.values()
    }
    assert len(moments) == 9  # ZeRO-1's own too
