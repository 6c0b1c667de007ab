"""What rematerialisation keeps of attention: how often its forward pass is in a layer's gradient."""

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused

from transformer.layers.execution import REMAT_POLICIES
from transformer.ops.attention import Mask, attention

KERNEL, PRODUCTS = "= dot_product_attention_fwd_wrapper[", "dot_general["


def gradient(policy: str, implementation: str) -> str:
    """The program of the gradient of three layers of a product and attention, under a policy."""

    def layer(x_BTD, w_DHK):
        q_BTHK = jnp.einsum("BTD,DHK->BTHK", jnp.sin(x_BTD), w_DHK)
        mask = Mask.self_attention(None, causal=True)
        out_BTHK = attention(q_BTHK, q_BTHK, q_BTHK, mask, implementation=implementation)
        return x_BTD + out_BTHK.reshape(x_BTD.shape), None

    def loss(w_NDHK, x_BTD):
        layers = jax.checkpoint(layer, policy=REMAT_POLICIES[policy], prevent_cse=False)
        return jax.lax.scan(layers, x_BTD, w_NDHK)[0].astype(jnp.float32).sum()

    shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((3, 16, 2, 8), (2, 8, 16))]
    return str(jax.make_jaxpr(jax.grad(loss))(*shapes))


@pytest.mark.parametrize(
    ("policy", "runs"),
    [("full", 2), ("attention", 1), ("projections", 2), ("projections+attention", 1), ("dots", 2)],
)
def test_the_kernel_runs_once_where_its_results_are_kept(policy, runs, monkeypatch):
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 92_800)
    text = gradient(policy, "cudnn")
    assert text.count(KERNEL) == runs
    assert text.count(KERNEL.replace("fwd", "bwd")) == 1


def test_without_a_kernel_the_product_with_the_values_is_not_computed_again():
    products = {policy: gradient(policy, "xla").count(PRODUCTS) for policy in REMAT_POLICIES}
    # Forward three; backward two of each; again: the projection and the scores, where nothing keeps them.
    assert products["full"] == products["attention"] == 3 + 6 + 2
