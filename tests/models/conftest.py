"""One tiny GPT for the room's tests, and its parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny_models import random_params
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig


@pytest.fixture(scope="session")
def tiny():
    """A config whose sizes are all different."""
    return GPTConfig(
        vocab_size=37,
        context_length=24,
        width=20,
        num_layers=3,
        num_heads=5,
        mlp_width=28,
        dropout=0.0,
        tie_embeddings=False,
    )


@pytest.fixture(scope="module")
def params(config):
    """Those of the file's `config`."""
    return random_params(config)


@pytest.fixture(scope="module")
def apply(config):
    """The jitted `apply` of the file's `config`."""
    return jax.jit(config.build(Execution()).apply)


@pytest.fixture(scope="session")
def tiny_params(tiny):
    """Random parameters, on the device."""
    return jax.tree.map(jnp.asarray, random_params(tiny))


@pytest.fixture(scope="session")
def tiny_batch(tiny):
    """Tokens [2, 12]: padding on the left of the first row; two documents and padding in the second."""
    rng = np.random.default_rng(1)
    segments = np.array([[0] * 4 + [1] * 8, [1] * 5 + [2] * 5 + [0] * 2], np.int32)
    positions = np.array([[0] * 4 + list(range(8)), list(range(5)) * 2 + [0] * 2], np.int32)
    tokens = rng.integers(0, tiny.vocab_size, segments.shape).astype(np.int32)
    return {"tokens": tokens, "positions": positions, "segment_ids": segments}


@pytest.fixture(scope="session")
def tiny_apply(tiny):
    """The tiny model's jitted `apply`."""
    return jax.jit(tiny.build(Execution()).apply)
