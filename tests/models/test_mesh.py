"""A model that knows no mesh gives the one-device loss and gradients on eight devices: every family does."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.exhaustive import few
from tests.tiny_models import TINY
from transformer.layers.execution import Execution
from transformer.models import FAMILIES
from transformer.ops.cross_entropy import cross_entropy
from transformer.parallel.layout import param_shardings
from transformer.parallel.mesh import MeshConfig, make_mesh


def test_every_family_is_here():
    assert set(TINY) == set(FAMILIES)


def _inputs(config, rng):
    """Eight rows: two documents and padding in one, padding on the left in the next, and so on."""
    segments = np.repeat(np.array([[1] * 9 + [2] * 4 + [0] * 3, [0] * 3 + [1] * 13], np.int32), 4, axis=0)
    inputs = {
        "tokens": rng.integers(0, 32, (8, 16)).astype(np.int32),
        "positions": np.tile(np.arange(16, dtype=np.int32), (8, 1)),
        "segment_ids": segments,
    }
    if config.kind == "encoder_decoder":
        inputs |= {
            "decoder_tokens": rng.integers(0, 32, (8, 12)).astype(np.int32),
            "decoder_positions": np.tile(np.arange(12, dtype=np.int32), (8, 1)),
            "decoder_segment_ids": segments[:, 4:],
        }
    if config.kind == "encoder":
        inputs["masked_positions"] = rng.integers(0, 16, (8, 4)).astype(np.int32)
    if config.family in ("bert", "albert"):
        inputs["token_types"] = (segments > 1).astype(np.int32)
    if config.family == "spanbert":
        names = ("boundary_left", "boundary_right", "boundary_offset")
        inputs |= {name: rng.integers(0, 16, (8, 4)).astype(np.int32) for name in names}
    return inputs


def _loss(params, inputs, targets, *, config, chunk):
    out = config.build(Execution()).apply({"params": params}, **inputs)
    weights = jnp.ones(targets.shape, jnp.float32)
    loss, weight, _ = cross_entropy(out.hidden_BTD, out.unembedding_VD, targets, weights, bias=out.bias_V, chunk=chunk)
    loss = loss / weight
    if getattr(out, "sentence_B2", None) is not None:
        loss += jax.nn.log_softmax(out.sentence_B2)[:, 0].mean()
    if getattr(out, "boundary", None) is not None:
        loss += out.boundary.logits.mean() + jnp.square(out.boundary.logits).mean()
    return loss


CASES = [(family, MeshConfig(2, 2, 2), None) for family in TINY]
CASES += [("gpt", MeshConfig(1, 2, 2, 2), 4), ("t5", MeshConfig(1, 2, 2, 2), None), ("bert", MeshConfig(1, 8, 1), None)]


@pytest.mark.parametrize(("family", "mesh", "chunk"), few(CASES, CASES[0]), ids=str)
def test_any_mesh_gives_the_one_device_gradients(family, mesh, chunk):
    config = TINY[family]
    rng = np.random.default_rng(0)
    abstract = config.abstract_params()
    params = jax.tree.map(
        lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float32), nn.meta.unbox(abstract)
    )
    inputs = _inputs(config, rng)
    length = 4 if config.kind == "encoder" else inputs.get("decoder_tokens", inputs["tokens"]).shape[1]
    targets = rng.integers(0, 32, (8, length)).astype(np.int32)
    step = jax.jit(jax.value_and_grad(_loss), static_argnames=("config", "chunk"))
    want = jax.tree.map(np.asarray, step(params, inputs, targets, config=config, chunk=chunk))
    devices = make_mesh(mesh)
    with jax.set_mesh(devices):
        placed = jax.device_put(params, param_shardings(abstract, devices))
        rows = NamedSharding(devices, PartitionSpec(("data", "fsdp")))
        have = step(placed, *jax.device_put((inputs, targets), rows), config=config, chunk=chunk)
    for one, other in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
