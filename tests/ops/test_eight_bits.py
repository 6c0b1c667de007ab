"""Numbers in eight bits: rounded as ml_dtypes rounds them, once, and products of them as of the rounded numbers."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from transformer.layers.primitives import eight_bit_linear
from transformer.ops.eight_bits import BACKWARD, FORWARD, eight_bits

ROUNDED = {FORWARD: ml_dtypes.float8_e4m3fn, BACKWARD: ml_dtypes.float8_e5m2}


def rounded(x: np.ndarray, dtype) -> np.ndarray:
    """The same by NumPy, in float64: with the smallest power of two as scale that leaves nothing out of range."""
    largest = np.abs(x).max()
    scale = 2.0 ** np.ceil(np.log2(largest / float(ml_dtypes.finfo(ROUNDED[dtype]).max)))
    return (x / scale).astype(ROUNDED[dtype]).astype(np.float64) * scale


@pytest.mark.parametrize("dtype", [FORWARD, BACKWARD])
@pytest.mark.parametrize("size", [1e-6, 1.0, 3e4])
@pytest.mark.parametrize("compute", [jnp.float32, jnp.bfloat16])
def test_numbers_are_rounded_once(dtype, size, compute):
    x = (size * np.random.default_rng(0).normal(size=(64, 33))).astype(np.float32)
    narrow = jax.jit(lambda x: eight_bits(x, dtype))(x)
    assert narrow.values.dtype == dtype
    mantissa, _ = np.frexp(float(narrow.scale))
    assert mantissa == 0.5  # a power of two
    widened = np.asarray(jax.jit(lambda x: eight_bits(x, dtype).widened(compute))(x)).astype(np.float64)
    np.testing.assert_array_equal(widened, rounded(x, dtype))


def test_nothing_overflows_at_the_edge_of_the_range():
    """One number more than a power of two times the largest of the dtype, and one less."""
    for dtype in (FORWARD, BACKWARD):
        largest = np.float32(jnp.finfo(dtype).max)
        for x in (largest, np.nextafter(largest, np.float32(np.inf)), np.nextafter(largest, np.float32(0))):
            narrow = eight_bits(jnp.asarray([x, -x]), dtype)
            assert np.isfinite(np.asarray(narrow.values).astype(np.float32)).all()
            np.testing.assert_allclose(narrow.widened(jnp.float32), [x, -x], rtol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_is_not_finite_stays_so_and_zeros_stay_zeros(bad):
    assert np.isnan(eight_bits(jnp.asarray([1.0, bad]), FORWARD).widened(jnp.float32)).any()
    np.testing.assert_array_equal(eight_bits(jnp.zeros(3), FORWARD).widened(jnp.float32), np.zeros(3))


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_product_and_its_gradients_are_those_of_rounded_numbers(recomputed):
    rng = np.random.default_rng(0)
    x, w, b, dy = (
        rng.normal(size=shape).astype(np.float32) for shape in ((2, 16, 24), (24, 2, 8), (2, 8), (2, 16, 2, 8))
    )
    y, pull = jax.vjp(lambda x, w, b: eight_bit_linear(x, w, b, 1, (), recomputed), x, w, b)
    dx, dw, db = pull(jnp.asarray(dy))
    x8, w8, dy8 = rounded(x, FORWARD), rounded(w, FORWARD), rounded(dy, BACKWARD)
    expected = {
        "y": (y, np.einsum("btd,dhk->bthk", x8, w8) + b),
        "dx": (dx, np.einsum("bthk,dhk->btd", dy8, w8)),
        "dw": (dw, np.einsum("btd,bthk->dhk", x8, dy8)),
        "db": (db, dy.sum((0, 1))),
    }
    for name, (have, want) in expected.items():
        assert have.dtype == jnp.float32
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-4, err_msg=name)
    assert np.abs(expected["y"][0] - (np.einsum("btd,dhk->bthk", x, w) + b)).max() > 0.01  # it is not the wide product
