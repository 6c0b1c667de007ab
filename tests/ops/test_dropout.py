"""Dropout as a statistic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.ops.elementwise import dropout, numbered


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_drops_its_share_and_keeps_the_mean(rate):
    count = 1 << 18
    out = np.asarray(dropout(jnp.ones(count), rate, jax.random.key(0)))
    sigma = (rate * (1 - rate) / count) ** 0.5
    assert abs((out == 0).mean() - rate) < 4 * sigma + 2**-16
    np.testing.assert_allclose(out[out != 0], 1 / (1 - rate), rtol=2e-5)


def test_keeps_the_dtype_and_the_gradient_follows_the_mask():
    x = jnp.ones(1000, jnp.bfloat16)
    out, pullback = jax.vjp(lambda x: dropout(x, 0.3, jax.random.key(1)), x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(pullback(x)[0], out)


def test_nothing_is_dropped_at_rate_zero():
    assert (dropout(jnp.ones(8), 0.0, jax.random.key(0)) == 1).all()
    with pytest.raises(ValueError, match=r"it must be in \[0, 1\)"):
        dropout(jnp.ones(8), 1.0, jax.random.key(0))


def test_a_row_has_the_mask_of_its_number_whatever_rows_are_with_it():
    x, key = jnp.ones((6, 64)), jax.random.key(0)
    whole = np.asarray(dropout(x, 0.5, key))
    assert len({row.tobytes() for row in whole}) == 6
    with numbered(jnp.arange(1, 6, 2, dtype=jnp.int32)):
        np.testing.assert_array_equal(dropout(x[1::2], 0.5, key), whole[1::2])
        with pytest.raises(ValueError, match="an array of 6 rows, where 3 rows are numbered"):
            dropout(x, 0.5, key)


PARTS = st.tuples(
    *(
        st.lists(st.integers(0, size - 1), min_size=count, max_size=count, unique=True)
        for size, count in ((2, 1), (3, 2), (5, 3))
    )
)


@pytest.mark.parametrize(("first", "last"), [(0, 7), (0, 4), (3, 7)])
@given(PARTS)
def test_a_part_has_the_mask_of_its_place_in_the_whole(first, last, parts):
    """Parts of rows, and of two axes after them; of the last axis, elements from one on."""
    key = jax.random.key(0)
    rows, heads, queries = (np.array(part, np.int32) for part in parts)
    whole = np.asarray(_dropped((2, 3, 5, 7), key, *(np.arange(size, dtype=np.int32) for size in (2, 3, 5))))
    want = whole[np.ix_(rows, heads, queries)][..., first:last]
    np.testing.assert_array_equal(_dropped(want.shape, key, rows, heads, queries, first), want)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _dropped(shape, key, rows, heads, queries, first=0):
    with numbered(rows):
        return dropout(jnp.ones(shape), 0.5, key, heads, queries, first=first)
