"""Every attention implementation against the reference, and the reference against the equation in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.ops.attention import IMPLEMENTATIONS, Mask, attention

# name -> B, T, H, G, K, causal, window, segments. More than 64 queries take several blocks.
CASES = {
    "causal": (2, 131, 3, 3, 5, True, None, False),
    "grouped packed": (2, 131, 6, 2, 4, True, None, True),
    "one kv head": (1, 70, 5, 1, 8, True, None, True),
    "sliding window": (2, 200, 2, 2, 4, True, 17, True),
    "window of one": (1, 70, 2, 1, 4, True, 1, False),
    "bidirectional": (2, 67, 2, 2, 4, False, None, True),
    "banded": (1, 150, 4, 2, 4, False, 9, True),
    "one token": (3, 1, 2, 1, 2, True, None, False),
}


def _arrays(B, T, H, G, K, S=None):
    rng = np.random.default_rng(0)
    S = T if S is None else S
    shapes = {"q": (B, T, H, K), "k": (B, S, G, K), "v": (B, S, G, K), "do": (B, T, H, K)}
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes.values()]


def _segments(B, T):
    """Padding on the left of the first row and on the right of the others; three segments between."""
    ids = np.minimum(np.arange(T) * 3 // max(T, 1), 2) + 1
    rows = np.stack([ids] * B)
    rows[0, : T // 8] = 0
    rows[1:, T - T // 8 :] = 0
    return jnp.asarray(rows, jnp.int32)


def _mask(B, T, causal, window, segments):
    return Mask.self_attention(_segments(B, T) if segments else None, causal=causal, window=window)


@functools.partial(jax.jit, static_argnames=("implementation", "scale"))
def _with_gradients(q, k, v, do, mask, bias=None, **options):
    out, pullback = jax.vjp(lambda q, k, v: attention(q, k, v, mask, bias=bias, **options), q, k, v)
    return out, *pullback(do)


@pytest.mark.parametrize("case", few(CASES, "grouped packed", "sliding window", "banded", "one token"))
def test_blocks_equal_the_reference(case):
    B, T, H, G, K, causal, window, segments = CASES[case]
    arrays = _arrays(B, T, H, G, K)
    mask = _mask(B, T, causal, window, segments)
    want = _with_gradients(*arrays, mask, implementation="reference")
    for have, expected in zip(_with_gradients(*arrays, mask, implementation="xla"), want, strict=True):
        np.testing.assert_allclose(have, expected, atol=3e-6)


@pytest.mark.parametrize(("G", "S"), [(3, 512), (1, 601)], ids=["heads", "grouped, cross"])
def test_a_head_at_a_time_equals_the_reference(G, S):
    arrays = _arrays(2, 515, 3, G, 5, S)
    want = _with_gradients(*arrays, Mask(), implementation="reference", scale=0.7)
    for have, expected in zip(_with_gradients(*arrays, Mask(), implementation="xla", scale=0.7), want, strict=True):
        np.testing.assert_allclose(have, expected, atol=2e-6 * np.abs(expected).max())


def test_a_head_at_a_time_is_for_long_sequences_of_one_cpu():
    def loops(length, mask=Mask(), **options):
        run = functools.partial(attention, mask=mask, implementation="xla", **options)
        return "scan" in str(jax.make_jaxpr(run)(*_arrays(1, length, 2, 2, 4)[:3]))

    assert loops(512)
    assert not loops(511)
    assert not loops(512, bias=jnp.ones((1, 1, 512, 512)))
    assert not loops(512, _mask(1, 512, False, None, True))
    assert not loops(512, _mask(1, 512, True, None, False))
    for device, count in (("NVIDIA A100-SXM4-80GB", 1), (None, 2)):
        described = None if device is None else AbstractDevice(device, None, platform="gpu")
        with jax.sharding.use_abstract_mesh(AbstractMesh((count,), ("data",), abstract_device=described)):
            assert not loops(512)


def test_reference_is_the_equation():
    B, T, H, G, K = 2, 7, 4, 2, 3
    q, k, v, _ = _arrays(B, T, H, G, K)
    segments = _segments(B, 7).at[0, 0].set(0)
    bias = jax.random.normal(jax.random.key(9), (1, H, T, T))
    mask = Mask.self_attention(segments, causal=True, window=3)
    have = _with_gradients(q, k, v, q, mask, bias, scale=0.7, implementation="reference")[0]
    q, k, v, bias, segments = (np.asarray(x, np.float64) for x in (q, k, v, bias, segments))
    for b, t, h in itertools.product(range(B), range(T), range(H)):
        seen = [s for s in range(max(0, t - 2), t + 1) if segments[b, s] == segments[b, t] and segments[b, s] != 0]
        want = np.zeros(K)
        if seen:
            scores = [0.7 * q[b, t, h] @ k[b, s, h // 2] + bias[0, h, t, s] for s in seen]
            weights = np.exp(scores) / np.exp(scores).sum()
            want = sum(w * v[b, s, h // 2] for w, s in zip(weights, seen, strict=True))
        np.testing.assert_allclose(have[b, t, h], want, atol=1e-6)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_what_sees_nothing_is_zero_and_gives_no_gradient(implementation):
    q, k, v, do = _arrays(2, 70, 2, 1, 4)
    segments = jnp.zeros((2, 70), jnp.int32).at[1, 3:9].set(1)
    mask = Mask.self_attention(segments, causal=True)
    with jax.debug_nans(True):
        out, *gradients = _with_gradients(q, k, v, do, mask, implementation=implementation)
    padding = np.asarray(segments == 0)
    for array in (out, *gradients):
        assert not np.asarray(array)[padding].any()
        assert np.asarray(array)[~padding].any()


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_bias_scale_and_cross_attention(implementation):
    q, k, v, do = _arrays(2, 5, 4, 2, 3, S=9)
    bias = jax.random.normal(jax.random.key(5), (2, 4, 5, 9))
    mask = Mask(q_segment_ids_BT=jnp.ones((2, 5), jnp.int32), kv_segment_ids_BS=_segments(2, 9).clip(0, 1))
    have = _with_gradients(q, k, v, do, mask, bias, scale=1.0, implementation=implementation)
    dense = mask.dense(5, 9)

    @jax.jit
    def jaxs_own(q, k, v, do):
        attend = functools.partial(jax.nn.dot_product_attention, bias=bias, mask=dense, scale=1.0)
        out, pullback = jax.vjp(attend, q, k, v)
        return out, *pullback(do)

    for one, other in zip(have, jaxs_own(q, k, v, do), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-6)


@pytest.mark.parametrize("shape", [(1, 4, 150, 150), (2, 1, 1, 150)])
def test_bias_is_cut_into_blocks(shape):
    arrays = _arrays(2, 150, 4, 4, 4)
    bias = jax.random.normal(jax.random.key(5), shape)
    mask = Mask.self_attention(None, causal=True, window=40)
    want = _with_gradients(*arrays, mask, bias, implementation="reference")
    for have, expected in zip(_with_gradients(*arrays, mask, bias, implementation="xla"), want, strict=True):
        np.testing.assert_allclose(have, expected, atol=3e-6)


def test_positions_order_what_is_not_aligned():
    """The last queries over all keys, as in decoding: positions give what indices gave."""
    q, k, v, _ = _arrays(2, 20, 2, 2, 4)
    segments, positions = _segments(2, 20), jnp.tile(jnp.arange(20, dtype=jnp.int32)[None], (2, 1))
    attend = jax.jit(attention)
    whole = attend(q, k, v, Mask.self_attention(segments, causal=True, window=6))
    mask = Mask(positions[:, 13:], positions, segments[:, 13:], segments, causal=True, window=6)
    np.testing.assert_allclose(attend(q[:, 13:], k, v, mask), whole[:, 13:], atol=1e-6)


def test_bfloat16_is_near_the_reference():
    q, k, v, do = (x.astype(jnp.bfloat16) for x in _arrays(2, 130, 4, 2, 16))
    mask = Mask.self_attention(_segments(2, 130), causal=True)
    have = _with_gradients(q, k, v, do, mask, implementation="xla")
    want = _with_gradients(*(x.astype(jnp.float32) for x in (q, k, v, do)), mask, implementation="reference")
    for one, other in zip(have, want, strict=True):
        assert one.dtype == jnp.bfloat16
        error = jnp.linalg.norm(one.astype(jnp.float32) - other) / jnp.linalg.norm(other)
        assert error < 0.01


@pytest.mark.parametrize("case", few(["causal", "sliding window", "bidirectional", "banded"], "causal", "banded"))
def test_cudnn_is_called_with_the_same_meaning(case, cudnn_without_a_gpu):
    B, T, H, G, K, causal, window, segments = CASES[case]
    q, k, v, _ = (x.astype(jnp.bfloat16) for x in _arrays(B, T, H, G, K))
    mask = _mask(B, T, causal, window, segments)
    with cudnn_without_a_gpu():
        have = attention(q, k, v, mask, implementation="cudnn").astype(jnp.float32)
    want = attention(*(x.astype(jnp.float32) for x in (q, k, v)), mask, implementation="reference")
    np.testing.assert_allclose(have, want, atol=0.03)


def test_cudnn_says_what_it_cannot_do():
    q, k, v, _ = _arrays(1, 4, 2, 2, 8)
    mask = Mask.self_attention(None, causal=True)
    with pytest.raises(UserError, match="bfloat16 or float16"):
        attention(q, k, v, mask, implementation="cudnn")
    with pytest.raises(UserError, match="no dropout"):
        attention(q, k, v, mask, implementation="cudnn", dropout_rate=0.1, dropout_key=jax.random.key(0))


def test_unknown_implementation_names_the_choices():
    q, k, v, _ = _arrays(1, 4, 2, 2, 8)
    with pytest.raises(UserError, match="unknown attention implementation 'flash'; choose from: auto, reference, xla"):
        attention(q, k, v, Mask.self_attention(None, causal=True), implementation="flash")
    assert set(IMPLEMENTATIONS) == {"reference", "xla", "cudnn", "packed"}


@pytest.mark.parametrize("implementation", ["reference", "xla"])
def test_dropout_keeps_the_mean_and_drops_its_share(implementation):
    B, T = 8, 128
    q = k = jnp.zeros((B, T, 1, T))
    v = jnp.broadcast_to(jnp.eye(T)[None, :, None], (B, T, 1, T))  # so the output is the probabilities
    out = attention(
        q, k, v, Mask(), implementation=implementation, dropout_rate=0.25, dropout_key=jax.random.key(0)
    )  # fmt: skip
    assert abs(float((out == 0).mean()) - 0.25) < 0.005
    assert abs(float(out.sum(-1).mean()) - 1.0) < 0.01


def test_blocks_drop_what_the_whole_matrix_drops():
    """Two blocks, of which a window gives the second keys from another one on."""
    q, k, v, _ = _arrays(1, 70, 2, 1, 4)
    mask = Mask.self_attention(None, causal=True, window=20)
    blocks, whole = (
        attention(q, k, v, mask, implementation=name, dropout_rate=0.25, dropout_key=jax.random.key(0))
        for name in ("xla", "reference")
    )
    np.testing.assert_allclose(blocks, whole, atol=1e-5)
