"""Norms, activations and feed-forward layers against PyTorch's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from transformer.layers.mlp import MLP, GatedMLP
from transformer.layers.primitives import LayerNorm, RMSNorm, parameter
from transformer.ops.elementwise import ACTIVATIONS

F = torch.nn.functional


def _apply(module, x):
    """Returns the output, and the parameters with random values."""
    params = nn.meta.unbox(module.init(jax.random.key(0), x))["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)
    return np.asarray(jax.jit(module.apply)({"params": params}, x)), jax.tree.map(np.asarray, params)


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(0).normal(3.0, 2.0, size=(2, 5, 12)), jnp.float32)


def test_layer_norm(x):
    y, params = _apply(LayerNorm(1e-3, jnp.float32), x)
    want = F.layer_norm(torch.tensor(np.asarray(x)), (12,), *map(torch.tensor, (params["scale"], params["bias"])), 1e-3)
    np.testing.assert_allclose(y, want, atol=3e-6)


def test_rms_norm(x):
    y, params = _apply(RMSNorm(1e-3, jnp.float32), x)
    np.testing.assert_allclose(
        y, F.rms_norm(torch.tensor(np.asarray(x)), (12,), torch.tensor(params["scale"]), 1e-3), atol=3e-6
    )


def test_norms_compute_in_float32(x):
    y, _ = _apply(LayerNorm(1e-5, jnp.bfloat16), (x + 300.0).astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert np.isfinite(y.astype(np.float32)).all()


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("gelu", F.gelu), ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")), ("relu", F.relu), ("silu", F.silu)],
)
def test_activations(name, theirs, x):
    np.testing.assert_allclose(ACTIVATIONS[name](x), theirs(torch.tensor(np.asarray(x))), atol=2e-6)


def test_mlp(x):
    y, params = _apply(MLP(20, "relu", jnp.float32), x)
    up, down = params["up"], params["down"]
    want = np.maximum(x @ up["kernel"] + up["bias"][None, None], 0) @ down["kernel"] + down["bias"][None, None]
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-4)


def test_gated_mlp(x):
    y, params = _apply(GatedMLP(20, "silu", jnp.float32), x)
    gate, up = (np.asarray(x) @ params[name]["kernel"] for name in ("gate", "up"))
    want = (F.silu(torch.tensor(gate)).numpy() * up) @ params["down"]["kernel"]
    np.testing.assert_allclose(y, want, rtol=2e-5, atol=2e-3)
    assert "bias" not in params["up"]


def test_a_mistyped_parameter_axis_raises():
    class Wrong(nn.Module):
        @nn.compact
        def __call__(self):
            return parameter(self, "kernel", nn.initializers.zeros_init(), ("embed", "mpl"), (2, 3))

    with pytest.raises(KeyError, match="unknown logical axis 'mpl'"):
        Wrong().init(jax.random.key(0))
