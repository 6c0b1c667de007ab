"""Packed attention against the dense mask's, with cuDNN's kernel by what its operands mean.

The kernel here reads and writes flat memory at the offsets that it is given, as cuDNN does: what lies in no run is left
as it was, not a number. Letters: S runs, and as in `transformer.ops.packed`.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as fused

from transformer.errors import UserError
from transformer.ops import packed
from transformer.ops.attention import Mask, attention
from transformer.parallel.mesh import MeshConfig, make_mesh

T, H, G, K = 16, 4, 2, 8

ROWS = {
    "two rows of few": [[1] * 7 + [2] * 9, [1] * 4 + [2] * 8 + [0] * 4],
    "more than a call takes": [[1, 2, 2, 3, 4, 4, 4, 5, 6, 6, 7, 8, 8, 9, 9, 9], [1] * 16],
    "a token each": [list(range(1, 17)), list(range(1, 17))],
    "padding before, between and alone": [[0] * 3 + [1] * 5 + [0] * 4 + [2] * 4, [0] * 16],
}


def _elements(offsets, lengths, length, size):
    """Where the tokens of runs lie in memory, int32 [S, T, size]; beyond its end where a run has no such token."""
    count = np.prod(lengths.shape)
    starts, lengths = offsets.reshape(-1)[:count], lengths.reshape(-1)
    places = starts[:, None, None] + jnp.arange(length)[:, None] * size + jnp.arange(size)
    return jnp.where(jnp.arange(length)[:, None] < lengths[:, None, None], places, 2**30)


def _read(x, elements):
    values = x.astype(jnp.float32).reshape(-1).at[elements].get(mode="fill", fill_value=0)
    return values.reshape(*elements.shape[:2], x.shape[2], x.shape[3])


def _written(values, elements, like):
    memory = jnp.full(like.size, jnp.nan, like.dtype)
    return memory.at[elements].set(values.reshape(elements.shape).astype(like.dtype), mode="drop").reshape(like.shape)


def _runs(q, k, v, q_lengths, kv_lengths, q_offsets, kv_offsets, mask_type):
    """Queries, keys and values of runs, who sees whom [S, T, T], and where all lies."""
    length = q.shape[1]
    of_queries = _elements(q_offsets, q_lengths, length, q.shape[2] * q.shape[3])
    of_keys = _elements(kv_offsets, kv_lengths, length, k.shape[2] * k.shape[3])
    repeats = q.shape[2] // k.shape[2]
    keys, values = (jnp.repeat(_read(x, of_keys), repeats, axis=2) for x in (k, v))
    sees = jnp.arange(length) < kv_lengths.reshape(-1, 1, 1)
    if mask_type == fused.MaskType.PADDING_CAUSAL:
        sees &= jnp.tril(jnp.ones((length, length), bool))
    return _read(q, of_queries), keys, values, sees[:, None], of_queries, of_keys


def _forward(q, k, v, bias, q_lengths, kv_lengths, q_offsets, kv_offsets, *_, scale, mask_type, **__):
    queries, keys, values, sees, of_queries, _ = _runs(q, k, v, q_lengths, kv_lengths, q_offsets, kv_offsets, mask_type)
    scores = jnp.where(sees, scale * jnp.einsum("STHK,SUHK->SHTU", queries, keys), -jnp.inf)
    stats = jax.nn.logsumexp(scores, axis=-1)
    out = jnp.einsum("SHTU,SUHK->STHK", jnp.exp(scores - stats[..., None]), values)
    return _written(out, of_queries, q), stats


def _backward(
    q, k, v, bias, q_lengths, kv_lengths, q_offsets, kv_offsets, page_k, page_v, stats, out, dout,
    *, scale, mask_type, **_,
):  # fmt: skip
    queries, keys, values, sees, of_queries, of_keys = _runs(
        q, k, v, q_lengths, kv_lengths, q_offsets, kv_offsets, mask_type
    )
    there = (of_queries[..., :1] < 2**30).transpose(0, 2, 1)[..., None]  # [S, 1, T, 1]
    out, dout = _read(out, of_queries), _read(dout, of_queries)
    scores = scale * jnp.einsum("STHK,SUHK->SHTU", queries, keys)
    probs = jnp.where(sees & there, jnp.exp(scores - stats[..., None]), 0)
    dprobs = jnp.einsum("STHK,SUHK->SHTU", dout, values)
    dscores = scale * probs * (dprobs - (out * dout).sum(-1).transpose(0, 2, 1)[..., None])
    of_groups = lambda x: x.reshape(*x.shape[:2], k.shape[2], -1, k.shape[3]).sum(axis=3)  # noqa: E731
    dk = of_groups(jnp.einsum("SHTU,STHK->SUHK", dscores, queries))
    dv = of_groups(jnp.einsum("SHTU,STHK->SUHK", probs, dout))
    dq = jnp.einsum("SHTU,SUHK->STHK", dscores, keys)
    return _written(dq, of_queries, q), _written(dk, of_keys, k), _written(dv, of_keys, v)


@pytest.fixture
def kernel(monkeypatch):
    def primitive(function):
        def bind(*operands, **options):
            with jax.numpy_rank_promotion("allow"):
                return function(*operands, **options)

        return types.SimpleNamespace(bind=bind)

    monkeypatch.setattr(fused, "_dot_product_attention_fwd_p", primitive(_forward))
    monkeypatch.setattr(fused, "_dot_product_attention_bwd_p", primitive(_backward))


def arrays(rows):
    rng = np.random.default_rng(1)
    shapes = [(rows, T, heads, K) for heads in (H, G, G, H)]
    return [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]


def with_gradients(q, k, v, do, segment_ids, *, causal, implementation, scale=0.3):
    mask = Mask.self_attention(segment_ids, causal=causal)
    attend = functools.partial(attention, mask=mask, implementation=implementation, scale=scale)
    out, pullback = jax.vjp(attend, q, k, v)
    return [x.astype(jnp.float32) for x in (out, *pullback(do))]


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("name", ROWS)
def test_runs_by_offsets_are_the_dense_mask(name, causal, kernel):
    segment_ids = jnp.asarray(ROWS[name], jnp.int32)
    have = jax.jit(functools.partial(with_gradients, causal=causal, implementation="packed"))(*arrays(2), segment_ids)
    exact = [x.astype(jnp.float32) for x in arrays(2)]
    want = with_gradients(*exact, segment_ids, causal=causal, implementation="reference")
    for one, other in zip(have, want, strict=True):
        np.testing.assert_allclose(one, other, atol=0.02 * np.abs(other).max() + 1e-6)
    assert not np.asarray(have[0])[np.asarray(segment_ids) == 0].any()


def test_each_device_has_runs_of_its_own(kernel):
    """Four rows over two devices, heads over two others; one device's rows take several calls, the other's one."""
    segment_ids = jnp.asarray(ROWS["a token each"] + ROWS["two rows of few"], jnp.int32)
    want = with_gradients(*(x.astype(jnp.float32) for x in arrays(4)), segment_ids, causal=True, implementation="xla")
    with jax.set_mesh(make_mesh(MeshConfig(data=2, tensor=2), jax.devices()[:4])):
        packed = functools.partial(with_gradients, causal=True, implementation="packed")
        have = jax.jit(packed)(*arrays(4), segment_ids)
    for one, other in zip(have, want, strict=True):
        np.testing.assert_allclose(one, other, atol=0.02 * np.abs(other).max() + 1e-6)


def test_another_jax_is_refused(monkeypatch):
    monkeypatch.setattr(packed, "JAX", "0.9.0")
    with pytest.raises(UserError, match="'packed' is written for JAX 0.9.0, and this is .*: choose 'cudnn'"):
        with_gradients(*arrays(2), jnp.ones((2, T), jnp.int32), causal=True, implementation="packed")
