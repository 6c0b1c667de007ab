"""The product with weights: automatic differentiation's gradients, but for sums that sixteen bits would spoil."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals
from jax.sharding import NamedSharding, PartitionSpec

from transformer.layers.execution import REMAT_POLICIES
from transformer.layers.primitives import linear
from transformer.ops.elementwise import scaled
from transformer.parallel.mesh import MeshConfig, make_mesh


def plain(x, kernel, bias, num_inputs):
    y = jnp.tensordot(x, kernel, num_inputs)
    return y if bias is None else y + jnp.broadcast_to(bias, y.shape)


@pytest.mark.parametrize(
    ("inputs", "outputs", "rows", "biased"),
    [((6,), (4,), (2, 3), True), ((6,), (2, 4), (2, 3), True), ((2, 4), (6,), (2, 3), True), ((6,), (4,), (5,), False)],
)
def test_gradients_are_those_of_automatic_differentiation(inputs, outputs, rows, biased):
    rng = np.random.default_rng(0)
    x, kernel, bias, weights = (
        jnp.asarray(rng.normal(size=shape), jnp.float32)
        for shape in ((*rows, *inputs), (*inputs, *outputs), outputs, (*rows, *outputs))
    )
    args = (x, kernel, bias if biased else None)

    def gradients(function):
        return jax.grad(lambda args: (function(*args, len(inputs)) * weights).sum())(args)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), gradients(linear), gradients(plain)
    )


@pytest.mark.parametrize("devices", [1, 8])
def test_sums_of_gradients_are_exact_in_bfloat16(devices):
    """257 ones on each device: bfloat16 has no 257 and no 2056, and one by one it would not count beyond 256."""
    mesh = make_mesh(MeshConfig(data=devices))
    x = jax.device_put(np.ones((devices, 257, 2), jnp.bfloat16), NamedSharding(mesh, PartitionSpec("data")))

    @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    def gradients(x, kernel, bias):
        return jax.grad(lambda kernel, bias: linear(x, kernel, bias, 1).astype(jnp.float32).sum(), (0, 1))(kernel, bias)

    for gradient in gradients(x, jnp.zeros((2, 3)), jnp.zeros(3)):
        assert gradient.dtype == jnp.float32
        np.testing.assert_array_equal(gradient, np.full_like(gradient, 257 * devices))


@pytest.mark.parametrize("policy", ["dots", "projections"])
def test_rematerialisation_may_keep_the_product(policy, capsys):
    function = jax.checkpoint(lambda *args: jnp.sin(linear(*args, 1)).sum(), policy=REMAT_POLICIES[policy])
    print_saved_residuals(function, jnp.ones((4, 2)), jnp.ones((2, 3)), jnp.ones(3))
    assert "output of dot_general" in capsys.readouterr().out


@pytest.mark.parametrize("factor", [10 / 9, 40**-0.5, 768**0.5])
def test_a_factor_is_not_rounded(factor):
    """Each product is, up or down; a factor that bfloat16 rounds first is off by 0.05 %, always the same way."""
    x = jnp.linspace(1, 2, 129, dtype=jnp.bfloat16)
    ratios = np.asarray(scaled(x, factor), np.float64) / np.asarray(x, np.float64)
    assert ratios.mean() == pytest.approx(factor, rel=3e-4)
    assert float(jnp.bfloat16(factor)) != pytest.approx(factor, rel=3e-4)
