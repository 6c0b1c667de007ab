"""The gradient of a matrix: the sum of rows' outer products, whichever side goes first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.ops.outer import summed_outer


@pytest.mark.parametrize(("inputs", "outputs"), [((6,), (2, 5)), ((12,), (3,)), ((4, 6), (5,)), ((5,), (5,))], ids=str)
def test_is_the_sum_of_outer_products(inputs, outputs):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3, 7, *inputs)).astype(np.float32), rng.normal(size=(3, 7, *outputs)).astype(np.float32)
    expected = np.tensordot(x.astype(np.float64), y.astype(np.float64), axes=((0, 1), (0, 1)))
    np.testing.assert_allclose(summed_outer(jnp.asarray(x), jnp.asarray(y), 2), expected, atol=1e-5)


def test_sums_of_halves_are_float32():
    x, y = jnp.ones((4096, 8), jnp.bfloat16), jnp.ones((4096, 2), jnp.bfloat16)
    total = summed_outer(x, y, 1)
    assert total.dtype == jnp.float32
    assert (total == 4096).all()


@pytest.mark.parametrize("wide_first", [True, False])
def test_the_wider_side_is_not_copied(wide_first):
    """No array of a CPU's program is the wide side turned: its elementwise computation would be done in that order."""
    wide, narrow = jax.ShapeDtypeStruct((512, 256), jnp.float32), jax.ShapeDtypeStruct((512, 64), jnp.float32)

    def gradient(x, y):
        x, y = (jnp.tanh(x), y) if wide_first else (x, jnp.tanh(y))
        return summed_outer(x, y, 1)

    compiled = jax.jit(gradient).lower(*((wide, narrow) if wide_first else (narrow, wide))).compile().as_text()
    assert "f32[256,512]" not in compiled
