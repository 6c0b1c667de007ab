"""Attention of a chunk of queries to a chunk of keys after another, in blocks, whose partial results add up.

The online softmax (Milakov and Gimelshein 2018; Rabe and Staats 2021) in float32: no array is as large as the queries
times the keys, forward or backward. The backward pass computes the probabilities again from each query's log-sum-exp,
as FlashAttention's does (Dao et al. 2022, algorithm 4).

Shape letters: B batch, T query length, S key length, H query heads, G key-value heads, R = H / G queries of a group, K
head width; N blocks of the queries, of X tokens each; M blocks of the keys, of Y tokens each.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transformer.ops.attention import MASKED, Mask

BLOCK = 512
"""The most queries, and keys, whose scores exist at a time."""


class Partial(NamedTuple):
    """What queries have seen so far; float32."""

    out_NBGRXK: jax.Array
    """Sum of the values, each times exp(score - peak)."""
    total_NBGRX: jax.Array
    """Sum of exp(score - peak)."""
    peak_NBGRX: jax.Array
    """The highest score; above all masked ones, so that these vanish even where no other is."""


class QueryGradients(NamedTuple):
    """What the backward pass knows of the queries, in blocks."""

    dout_NBXGRK: jax.Array
    lse_NBGRX: jax.Array
    """float32: log of the sum of exp(score); infinite where a query sees nothing, so that its probabilities are 0."""
    mean_NBGRX: jax.Array
    """float32: what the cotangents of a query's probabilities average to, the product of its output with `dout`."""


def block_of(length: int) -> int:
    """Returns the tokens of a block: the largest divisor of the length that is no larger than `BLOCK`."""
    return next(size for size in range(min(length, BLOCK), 0, -1) if length % size == 0)


def blocks(x: jax.Array) -> jax.Array:
    """Returns [N, B, X, ...] of [B, T, ...]."""
    block = block_of(x.shape[1])
    return jnp.moveaxis(x.reshape(x.shape[0], -1, block, *x.shape[2:]), 1, 0)


def unblocked(x: jax.Array) -> jax.Array:
    """Returns [B, T, ...] of [N, B, X, ...]."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def nothing_seen(q_NBXGRK: jax.Array, value_width: int) -> Partial:
    """Returns what queries have seen before the first keys; values may have another width than queries and keys."""
    N, B, X, G, R, _ = q_NBXGRK.shape
    zeros, f32 = jnp.zeros((N, B, G, R, X), jnp.float32), jnp.float32
    return Partial(jnp.zeros((N, B, G, R, X, value_width), f32), zeros, jnp.full_like(zeros, MASKED / 2))


def see(partial: Partial, q_NBXGRK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, mask: Mask) -> Partial:
    """Returns what the queries have seen, these keys too.

    Args:
      partial: what they have seen before.
      q_NBXGRK: queries, scaled.
      k_BSGK: keys.
      v_BSGK: values; they may have another width than queries and keys, which the result then has.
      mask: over these queries and keys; not aligned.
    """
    of_queries, of_keys = _blocked(mask)
    keys = blocks(k_BSGK), blocks(v_BSGK), of_keys

    def of_query_block(_, xs):
        seen, q_BXGRK, query_mask = xs

        def of_key_block(seen: Partial, xs):
            k_BYGK, v_BYGK, key_mask = xs
            part = _joined(mask, query_mask, key_mask)

            def look(seen: Partial) -> Partial:
                scores_BGRXY = _scores(q_BXGRK, k_BYGK, part)
                peak = jnp.maximum(seen.peak_NBGRX, scores_BGRXY.max(axis=-1))
                exp_BGRXY = jnp.exp(scores_BGRXY - peak[..., None])
                shrunk = jnp.exp(seen.peak_NBGRX - peak)
                out_BGRXK = jnp.einsum(
                    "BGRXY,BYGK->BGRXK", exp_BGRXY.astype(v_BYGK.dtype), v_BYGK, preferred_element_type=jnp.float32
                )
                out_BGRXK += seen.out_NBGRXK * shrunk[..., None]
                return Partial(out_BGRXK, seen.total_NBGRX * shrunk + exp_BGRXY.sum(axis=-1), peak)

            return _where_seen(part, look, lambda seen: seen, seen), None

        return None, jax.lax.scan(of_key_block, seen, keys)[0]

    return jax.lax.scan(of_query_block, None, (partial, q_NBXGRK, of_queries))[1]


def finished(partial: Partial, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Returns the output [B, T, H, K], zeros for a query that saw nothing, and the log-sum-exp [N, B, G, R, X]."""
    saw = partial.total_NBGRX > 0
    total = jnp.where(saw, partial.total_NBGRX, jnp.float32(1))
    out_NBXGRK = jnp.moveaxis(partial.out_NBGRXK / total[..., None], 4, 2)
    lse = jnp.where(saw, partial.peak_NBGRX + jnp.log(total), jnp.float32(jnp.inf))
    return merged_heads(unblocked(out_NBXGRK)).astype(dtype), lse


def query_gradients(out_BTHK: jax.Array, dout_BTHK: jax.Array, lse_NBGRX: jax.Array) -> QueryGradients:
    """Returns what the backward pass needs of the queries' results."""
    groups = lse_NBGRX.shape[2]
    mean_BTH = (out_BTHK.astype(jnp.float32) * dout_BTHK.astype(jnp.float32)).sum(axis=-1)
    mean_NBXGR = blocks(mean_BTH.reshape(*mean_BTH.shape[:2], groups, -1))
    return QueryGradients(blocks(split_heads(dout_BTHK, groups)), lse_NBGRX, jnp.moveaxis(mean_NBXGR, 2, 4))


def see_backward(
    dq_NBXGRK: jax.Array,
    dkv: tuple[jax.Array, jax.Array],
    q_NBXGRK: jax.Array,
    gradients: QueryGradients,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    mask: Mask,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Returns the gradients of queries, and of keys and values, with what these add to each other's.

    Args:
      dq_NBXGRK: float32; the queries' so far.
      dkv: the keys' and the values' so far, float32, of their shapes.
      q_NBXGRK: queries, scaled; the gradient is of these.
      gradients: what is known of the queries.
      k_BSGK: keys.
      v_BSGK: values.
      mask: over these queries and keys; not aligned.
    """
    of_queries, of_keys = _blocked(mask)
    keys = blocks(k_BSGK), blocks(v_BSGK), of_keys

    def of_query_block(dkv, xs):
        dq_BXGRK, q_BXGRK, (dout_BXGRK, lse_BGRX, mean_BGRX), query_mask = xs

        def of_key_block(dq_BXGRK, xs):
            k_BYGK, v_BYGK, key_mask = xs
            part = _joined(mask, query_mask, key_mask)
            f32 = {"preferred_element_type": jnp.float32}

            def look(dq_BXGRK):
                probs_BGRXY = jnp.exp(_scores(q_BXGRK, k_BYGK, part) - lse_BGRX[..., None])
                dprobs_BGRXY = jnp.einsum("BXGRK,BYGK->BGRXY", dout_BXGRK, v_BYGK, **f32)
                dscores_BGRXY = (probs_BGRXY * (dprobs_BGRXY - mean_BGRX[..., None])).astype(q_BXGRK.dtype)
                dv_BYGK = jnp.einsum("BGRXY,BXGRK->BYGK", probs_BGRXY.astype(dout_BXGRK.dtype), dout_BXGRK, **f32)
                dk_BYGK = jnp.einsum("BGRXY,BXGRK->BYGK", dscores_BGRXY, q_BXGRK, **f32)
                return dq_BXGRK + jnp.einsum("BGRXY,BYGK->BXGRK", dscores_BGRXY, k_BYGK, **f32), (dk_BYGK, dv_BYGK)

            zeros = jnp.zeros(k_BYGK.shape, jnp.float32), jnp.zeros(v_BYGK.shape, jnp.float32)
            return _where_seen(part, look, lambda dq_BXGRK: (dq_BXGRK, zeros), dq_BXGRK)

        dq_BXGRK, added = jax.lax.scan(of_key_block, dq_BXGRK, keys)
        return jax.tree.map(lambda total, more: total + unblocked(more), dkv, added), dq_BXGRK

    dkv, dq_NBXGRK = jax.lax.scan(of_query_block, dkv, (dq_NBXGRK, q_NBXGRK, gradients, of_queries))
    return dq_NBXGRK, dkv


def split_heads(x_BTHK: jax.Array, groups: int) -> jax.Array:
    """Returns [B, T, G, R, K]."""
    B, T, H, K = x_BTHK.shape
    return x_BTHK.reshape(B, T, groups, H // groups, K)


def merged_heads(x_BTGRK: jax.Array) -> jax.Array:
    """Returns [B, T, H, K]."""
    B, T, G, R, K = x_BTGRK.shape
    return x_BTGRK.reshape(B, T, G * R, K)


def _scores(q_BXGRK: jax.Array, k_BYGK: jax.Array, mask: Mask) -> jax.Array:
    """Returns float32 [B, G, R, X, Y]."""
    scores_BGRXY = jnp.einsum("BXGRK,BYGK->BGRXY", q_BXGRK, k_BYGK, preferred_element_type=jnp.float32)
    dense_B1XY = mask.dense(q_BXGRK.shape[1], k_BYGK.shape[1])
    return scores_BGRXY if dense_B1XY is None else jnp.where(dense_B1XY[:, :, None], scores_BGRXY, jnp.float32(MASKED))


def _where_seen(mask: Mask, look, skip, x):
    """Returns `look(x)`, or `skip(x)` where order hides every key of the mask from every query.

    Only an order that all rows share can tell: a decision by row would be one of all devices that split the batch.
    """
    q_1X, k_1Y = mask.q_positions_BT, mask.kv_positions_BS
    causal = mask.causal and mask.kv_prefix_BS is None
    if q_1X is None or k_1Y is None or q_1X.shape[0] > 1 or k_1Y.shape[0] > 1 or not (causal or mask.window):
        return look(x)
    seen = jnp.bool_(True)
    if causal:
        seen &= q_1X.max() >= k_1Y.min()
    if mask.window is not None:
        seen &= (q_1X.min() - k_1Y.max() < mask.window) & (k_1Y.min() - q_1X.max() < mask.window)
    return jax.lax.cond(seen, look, skip, x)


def _blocked(mask: Mask) -> tuple[Any, Any]:
    """Returns what a mask holds of queries, and of keys, in blocks."""
    of_queries = mask.q_positions_BT, mask.q_segment_ids_BT
    of_keys = mask.kv_positions_BS, mask.kv_segment_ids_BS, mask.kv_prefix_BS
    return jax.tree.map(blocks, (of_queries, of_keys))


def _joined(mask: Mask, of_queries: Any, of_keys: Any) -> Mask:
    """Returns the mask of a block of queries and a block of keys."""
    names = ("q_positions_BT", "q_segment_ids_BT", "kv_positions_BS", "kv_segment_ids_BS", "kv_prefix_BS")
    return mask.replace(**dict(zip(names, (*of_queries, *of_keys), strict=True)))
