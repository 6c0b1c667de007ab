"""Saved on any of {1, 2, 4, 8 devices} x {data, fsdp, tensor}, restored on any other: the same values."""

import itertools

import jax
import numpy as np
import pytest

from transformer.checkpoint import Checkpoints
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig
from transformer.objectives.causal_lm import CausalLM
from transformer.sharding import MeshConfig, make_mesh
from transformer.training.optimizer import OptimizerConfig, make_optimizer
from transformer.training.step import make_program

LAYOUTS = {
    "one": MeshConfig(data=1),
    **{
        f"{axis} {size}": MeshConfig(**{"data": 1, axis: size})
        for axis, size in itertools.product(("data", "fsdp", "tensor"), (2, 4, 8))
    },
}


@pytest.fixture(scope="module")
def abstract():
    """Layout -> the abstract training state on it."""
    model = GPTConfig(vocab_size=64, context_length=16, width=16, num_layers=2, num_heads=8)
    optimizer = OptimizerConfig(name="adamw")
    return {
        name: make_program(
            model,
            Execution(),
            CausalLM(),
            lambda names: make_optimizer(optimizer, 10, names),
            make_mesh(mesh),
            seed=0,
        ).abstract
        for name, mesh in LAYOUTS.items()
    }


@pytest.fixture(scope="module")
def values(abstract):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), abstract["one"])


@pytest.mark.parametrize("saved_on", LAYOUTS)
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


def test_the_layouts_differ(abstract):
    """Else the matrix would say nothing: each layout but data's cuts some parameters, and each its own way."""
    specs = {
        name: str(jax.tree.map(lambda leaf: leaf.sharding.shard_shape(leaf.shape), aim.params))
        for name, aim in abstract.items()
    }
    assert len(set(specs.values())) == 7
    assert specs["one"] == specs["data 2"] == specs["data 8"]
