"""Values averaged by the softmax of scores: what attention makes of its scores.

The softmax is never written out. Values are weighed by exp(score - peak), and the sums are divided by the weights'
total, which are as many numbers as the result and not as many as the scores: one pass less over these.

Shape letters: P leading axes, H query heads, G key-value heads, R = H / G queries of a group, T queries, S keys, K head
width.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from transformer.ops import kept as keeping

# Finite, so that a row that sees nothing has a finite softmax and finite gradients; far below any score.
MASKED = -1e30


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def averaged(
    scores_PHTS: jax.Array,
    v_PGSK: jax.Array,
    visible: jax.Array | None = None,
    kept: jax.Array | None = None,
    factor: float = 1.0,
    keeps_result: bool = False,
) -> jax.Array:
    """Returns the values, averaged by the softmax of the visible scores: [P, H, T, K], in their dtype.

    Args:
      scores_PHTS: float32.
      v_PGSK: values; query heads [g * R, (g + 1) * R) share head g.
      visible: bool, broadcastable to the scores; None: all are. A query that sees nothing gets zeros.
      kept: bool, broadcastable to the scores: the probabilities that are not dropped; None: all.
      factor: of those that are kept.
      keeps_result: in float32, keep the result for the gradient, which then makes a pass less over the scores.
    """
    return _forward(scores_PHTS, v_PGSK, visible, kept, factor, keeps_result)[0]


def _forward(scores_PHTS, v_PGSK, visible, kept, factor, keeps_result):
    if visible is not None:
        scores_PHTS = jnp.where(visible, scores_PHTS, jnp.float32(MASKED))
    # A row that sees nothing has its peak held above its scores, so that they vanish.
    peak_PHT1 = jnp.maximum(scores_PHTS.max(axis=-1, keepdims=True), jnp.float32(MASKED / 2))
    exp_PHTS = jnp.exp(scores_PHTS - peak_PHT1).astype(v_PGSK.dtype)
    # Of the rounded weights, so that these add up to 1; those of a row that sees something, to 1 at least before.
    total_PHT1 = exp_PHTS.astype(jnp.float32).sum(axis=-1, keepdims=True)
    share_PHT1 = 1 / jnp.maximum(total_PHT1, jnp.float32(1))
    sums_PGQK = _product("QS,SK->QK", _by_group(_kept(exp_PHTS, kept), v_PGSK), v_PGSK)
    out_PHTK = sums_PGQK.reshape(*scores_PHTS.shape[:-1], -1) * (jnp.float32(factor) * share_PHT1)
    out_PHTK = keeping.kept(out_PHTK.astype(v_PGSK.dtype))
    # Where it is rounded, what all cotangents of a row share would not quite cancel.
    is_kept = keeps_result and out_PHTK.dtype == jnp.float32
    return out_PHTK, (exp_PHTS, share_PHT1, v_PGSK, kept, out_PHTK if is_kept else None)


def _backward(factor, keeps_result, residuals, dout_PHTK):
    del keeps_result
    exp_PHTS, share_PHT1, v_PGSK, kept, out_PHTK = residuals
    weights_PHTS = exp_PHTS.astype(jnp.float32)
    dsums_PHTK = (dout_PHTK.astype(jnp.float32) * (jnp.float32(factor) * share_PHT1)).astype(v_PGSK.dtype)
    dsums_PGQK = _by_group(dsums_PHTK, v_PGSK)
    # As [K, S], which turns the narrow side: a CPU turns what a product reads by columns.
    dv_PGKS = _product("QK,QS->KS", dsums_PGQK, _by_group(_kept(exp_PHTS, kept), v_PGSK))
    dexp_PGQS = _product("QK,SK->QS", dsums_PGQK, v_PGSK)
    dexp_PHTS = _kept(dexp_PGQS.reshape(exp_PHTS.shape), kept)
    if out_PHTK is None:
        mean_PHT1 = (weights_PHTS * dexp_PHTS).sum(axis=-1, keepdims=True) * share_PHT1
    else:
        # What the weights average their cotangents to is the result's product with its own cotangent (Dao et al. 2022,
        # FlashAttention, section B.2).
        mean_PHT1 = (dsums_PHTK * out_PHTK).sum(axis=-1, keepdims=True) / jnp.float32(factor)
    return weights_PHTS * (dexp_PHTS - mean_PHT1), dv_PGKS.mT.astype(v_PGSK.dtype), None, None


averaged.defvjp(_forward, _backward)


def _kept(x: jax.Array, kept: jax.Array | None) -> jax.Array:
    return x if kept is None else jnp.where(kept, x, jnp.zeros((), x.dtype))


def _by_group(x_PHTS: jax.Array, v_PGSK: jax.Array) -> jax.Array:
    """Returns [P, G, R * T, S]: the queries of a group in rows of one product."""
    return x_PHTS.reshape(*v_PGSK.shape[:-2], -1, x_PHTS.shape[-1])


def _product(axes: str, x: jax.Array, y: jax.Array) -> Any:
    """Returns the float32 product of stacks of matrices."""
    left, right, result = axes.replace("->", ",").split(",")
    return jnp.einsum(f"...{left},...{right}->...{result}", x, y, preferred_element_type=jnp.float32)
