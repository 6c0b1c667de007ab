"""A model that knows no mesh gives the one-device loss and gradients on eight devices."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig
from transformer.ops.cross_entropy import cross_entropy
from transformer.sharding import MeshConfig, make_mesh, param_shardings

CONFIG = GPTConfig(vocab_size=32, context_length=16, width=16, num_layers=2, num_heads=4, dropout=0.0)


def _loss(params, batch, chunk):
    out = CONFIG.build(Execution()).apply({"params": params}, **batch)
    weights = (batch["segment_ids"] > 0).astype(jnp.float32)
    total, weight, _ = cross_entropy(out.hidden_BTD, out.unembedding_VD, batch["tokens"], weights, chunk=chunk)
    return total / weight


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("mesh", [MeshConfig(2, 2, 2), MeshConfig(1, 2, 2, 2)], ids=str)
def test_any_mesh_gives_the_one_device_gradients(mesh, chunk):
    rng = np.random.default_rng(0)
    abstract = CONFIG.abstract_params()
    params = jax.tree.map(
        lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float32), nn.meta.unbox(abstract)
    )
    segments = np.repeat(np.array([[1] * 9 + [2] * 7, [0] * 3 + [1] * 13], np.int32), 4, axis=0)
    batch = {
        "tokens": rng.integers(0, 32, (8, 16)).astype(np.int32),
        "positions": np.tile(np.arange(16, dtype=np.int32), (8, 1)),
        "segment_ids": segments,
    }
    step = jax.jit(jax.value_and_grad(_loss), static_argnames="chunk")
    want = jax.tree.map(np.asarray, step(params, batch, chunk=chunk))
    devices = make_mesh(mesh)
    with jax.set_mesh(devices):
        placed = jax.device_put(params, param_shardings(abstract, devices))
        batch = jax.device_put(batch, NamedSharding(devices, PartitionSpec(("data", "fsdp"))))
        have = step(placed, batch, chunk=chunk)
    for one, other in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
