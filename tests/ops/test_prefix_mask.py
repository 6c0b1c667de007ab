"""A visible prefix in every attention implementation, against its definition written out."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.ops.attention import Mask, attention

B, T, H, G, K = 3, 150, 4, 2, 4  # three blocks of queries
# Two documents and padding, whose prefixes cross blocks; one that is nearly all prefix; padding on the left, no prefix.
SEGMENTS = np.array([[1] * 80 + [2] * 60 + [0] * 10, [1] * T, [0] * 20 + [1] * 130], np.int32)
PREFIX = np.array([[1] * 70 + [0] * 10 + [1] * 30 + [0] * 40, [1] * 140 + [0] * 10, [0] * T], np.int32)


def written_out(window, segments=SEGMENTS):
    """Returns bool [B, T, S] from the definition, pair by pair."""
    seen = np.zeros((B, T, T), bool)
    for b, q, k in itertools.product(range(B), range(T), range(T)):
        same = segments is None or (segments[b, q] == segments[b, k] != 0)
        near = window is None or abs(q - k) < window
        seen[b, q, k] = same and near and (k <= q or PREFIX[b, k] == 1)
    return seen


def mask_of(window, segments=SEGMENTS):
    segments = None if segments is None else jnp.asarray(segments)
    return Mask.self_attention(segments, causal=True, window=window, prefix_BT=jnp.asarray(PREFIX))


def arrays(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=(B, T, heads, K)), dtype) for heads in (H, G, G, H)]


@functools.partial(jax.jit, static_argnames="implementation")
def with_gradients(q, k, v, do, mask, bias=None, implementation="xla"):
    out, pullback = jax.vjp(lambda q, k, v: attention(q, k, v, mask, bias=bias, implementation=implementation), q, k, v)
    return out, *pullback(do)


@pytest.mark.parametrize("segments", [SEGMENTS, None], ids=["packed", "one segment"])
@pytest.mark.parametrize("window", [None, 17, 1])
def test_the_mask_is_the_definition(window, segments):
    dense_B1TS: Any = mask_of(window, segments).dense(T, T)
    np.testing.assert_array_equal(dense_B1TS[:, 0], written_out(window, segments))


@pytest.mark.parametrize("window", [None, 100])
def test_blocks_skip_nothing_that_a_prefix_shows(window):
    """A window of 100 reaches over a block on both sides."""
    want = with_gradients(*arrays(), mask_of(window), implementation="reference")
    for have, expected in zip(with_gradients(*arrays(), mask_of(window)), want, strict=True):
        np.testing.assert_allclose(have, expected, atol=3e-6)


@pytest.mark.parametrize(("window", "keys"), [(None, (150, 150, 150)), (17, (64 + 16, 16 + 64 + 16, 16 + 22))])
def test_a_window_still_bounds_the_work(window, keys):
    """Two products of 2 K FLOPs for every pair of a query and a key that it is shown, in blocks of 64, 64 and 22."""
    cost: Any = jax.jit(attention).lower(*arrays()[:3], mask_of(window)).compile().cost_analysis()
    pairs = B * H * sum(block * shown for block, shown in zip((64, 64, 22), keys, strict=True))
    assert 4 * K * pairs <= cost["flops"] < 4 * K * pairs * 1.8  # and masks and softmax


def test_no_prefix_is_causality():
    causal = Mask.self_attention(jnp.asarray(SEGMENTS), causal=True, window=40)
    assert len(jax.tree.leaves(causal)) == 2  # no array more than there was
    empty = causal.replace(kv_prefix_BS=jnp.zeros_like(SEGMENTS))
    np.testing.assert_array_equal(causal.dense(T, T), empty.dense(T, T))


@pytest.mark.parametrize("window", [None, 17])
def test_cudnn_is_called_with_the_same_meaning(window, cudnn_without_a_gpu):
    with cudnn_without_a_gpu():
        q, k, v, _ = arrays(jnp.bfloat16)
        have = attention(q, k, v, mask_of(window), implementation="cudnn")
    q, k, v, _ = arrays()
    want = attention(q, k, v, mask_of(window), implementation="reference")
    np.testing.assert_allclose(have.astype(jnp.float32), want, atol=0.03)
