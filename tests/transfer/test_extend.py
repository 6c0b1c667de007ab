"""Longer tables: each rule against its source's formula."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.special
from hypothesis import given
from hypothesis import strategies as st

from transformer.transfer.extend import Extension, extend

OLD = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
FRESH = np.random.default_rng(1).normal(size=(18, 5)).astype(np.float32)


def longer(rule, *, name="positions", first=0, old=OLD, fresh=FRESH, axis=0):
    return np.asarray(extend(jnp.asarray(old), jnp.asarray(fresh), Extension(name, axis, rule, first)))


def test_fresh_rows_are_the_initial_ones():
    np.testing.assert_array_equal(longer("fresh"), np.concatenate([OLD, FRESH[7:]]))
    np.testing.assert_array_equal(longer("fresh", old=OLD.T, fresh=FRESH.T, axis=1), np.concatenate([OLD, FRESH[7:]]).T)


@given(seed=st.integers(0, 99), scale=st.floats(0.01, 3.0))
def test_the_mean_bounds_what_old_tokens_lose(seed, scale):
    """Hewitt 2021: the new tokens' scores are the mean of the old ones', so the partition grows by M / R at most."""
    rng = np.random.default_rng(seed)
    table, bias = (rng.normal(scale=scale, size=shape).astype(np.float32) for shape in (OLD.shape, OLD.shape[:1]))
    new = [
        longer("mean", name="vocab", old=old, fresh=np.zeros((18, *old.shape[1:]), np.float32)) for old in (table, bias)
    ]
    for old, made in zip((table, bias), new, strict=True):
        np.testing.assert_array_equal(made[:7], old)
        np.testing.assert_allclose(made[7:], np.broadcast_to(old.mean(0), made[7:].shape), rtol=0, atol=1e-5 * scale)
    hidden = rng.normal(size=5)
    before, after = (scipy.special.log_softmax(e @ hidden + b) for e, b in ((table, bias), new))
    assert (before - after[:7] <= np.log(18 / 7) + 1e-5).all()


@pytest.mark.parametrize("first", [0, 2])
def test_repeated_positions_are_longformers(first):
    """Its conversion of RoBERTa copies the old rows behind its first two, a stretch at a time."""
    want = np.empty_like(FRESH)
    want[:first] = OLD[:first]
    at, step = first, len(OLD) - first
    while at < len(want):
        stretch = OLD[first : first + min(step, len(want) - at)]
        want[at : at + len(stretch)] = stretch
        at += step
    np.testing.assert_array_equal(longer("repeat", first=first), want)


@pytest.mark.parametrize("rows", [8, 13, 18, 19])
def test_interpolated_positions_are_vits(rows):
    """Its released code: scipy.ndimage.zoom of order 1."""
    want = scipy.ndimage.zoom(OLD, (rows / 7, 1), order=1)
    assert want.shape == (rows, 5)
    fresh = np.zeros((rows, 5), np.float32)
    np.testing.assert_allclose(longer("interpolate", fresh=fresh), want, rtol=0, atol=1e-6)
    shifted = longer(
        "interpolate", first=2, old=np.concatenate([FRESH[:2], OLD]), fresh=np.zeros((rows + 2, 5), np.float32)
    )
    np.testing.assert_array_equal(shifted[:2], FRESH[:2])
    np.testing.assert_allclose(shifted[2:], want, rtol=0, atol=1e-6)


def test_a_single_position_is_everywhere():
    np.testing.assert_array_equal(longer("interpolate", old=OLD[:1]), np.broadcast_to(OLD[:1], FRESH.shape))
