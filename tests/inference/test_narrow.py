"""Weights in 16 bits give the numbers of weights in 32, where a model computes in 16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
from tests.exhaustive import few
from tests.tiny_models import TINY, random_params
from transformer.inference.narrow import narrowed, rounded_paths
from transformer.layers.execution import Execution

BFLOAT16 = Execution(dtype="bfloat16")
# Else the compiler may leave out the rounding that it is about.
ROUNDS = {"xla_allow_excess_precision": False}


@pytest.mark.parametrize("name", few(TINY, "gpt", "t5", "whisper", "olmoe"))
def test_all_outputs_are_the_same(name):
    architecture = TINY[name]
    model, inputs = architecture.build(BFLOAT16), architecture.example_inputs()

    @jax.jit
    def outputs(params):
        outputs = model.apply({"params": params}, **inputs)
        return outputs, getattr(outputs, "logits", None)

    wide = jax.tree.map(jnp.asarray, random_params(architecture))
    # `narrowed` gives up what it reads.
    narrow = narrowed(architecture, jax.tree.map(jnp.array, wide), BFLOAT16)
    compiled = [outputs.lower(params).compile(ROUNDS) for params in (wide, narrow)]
    want, have = (run(params) for run, params in zip(compiled, (wide, narrow), strict=True))
    leaves = zip(jax.tree_util.tree_leaves_with_path(want), jax.tree.leaves(have), strict=True)
    compared = [(expected, value) for (path, expected), value in leaves if "unembedding" not in str(path)]  # a weight
    assert compared
    for expected, value in compared:
        np.testing.assert_array_equal(value, expected)


def test_nearly_all_weights_are_in_half_the_memory():
    architecture = configs.get("llama3-8b").model
    sizes = {path: parameter.size for path, parameter in architecture.parameters.items()}
    rounded = rounded_paths(architecture, BFLOAT16)
    assert sum(sizes[path] for path in rounded) > 0.999 * sum(sizes.values())


def test_in_float32_weights_stay_as_they_are():
    params = random_params(TINY["gpt"])
    assert narrowed(TINY["gpt"], params, Execution()) is params
