"""Losses between what a student and its teacher make of the same batch: sums over the batch, divided elsewhere.

What is compared at every token of a row, where the objective's targets are fewer or more, weighs in all as much as the
row's targets do: `spread`. With as many targets for each token in every row, a loss is then the mean over tokens, as in
`distiller.py` (Hugging Face Transformers, `examples/research_projects/distillation`), whose names for the terms are in
the docstrings; and sums of microbatches and of devices add up.

Shape letters: B batch, T query length, S key length, D model width, H heads, G key-value heads, K head width, N layers.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from transformer.ops.attention import MASKED, Mask

_EPSILON = 1e-12
"""Added to the squared lengths of vectors, as by `torch.nn.CosineEmbeddingLoss`."""


def real_tokens(inputs: Mapping[str, Any], shape: tuple[int, int]) -> jax.Array:
    """Returns float32 [B, T], 1 at each place of the last hidden states that is no padding.

    Args:
      inputs: the model's.
      shape: B and T.
    """
    segment_ids = inputs.get("decoder_segment_ids" if "decoder_tokens" in inputs else "segment_ids")
    return jnp.ones(shape, jnp.float32) if segment_ids is None else (segment_ids > 0).astype(jnp.float32)


def spread(weights: jax.Array, places_BT: jax.Array) -> jax.Array:
    """Returns float32 [B, T]: the weight of each row's targets in all, in equal parts at its places.

    Args:
      weights: [B, ...], of the targets.
      places_BT: 1 at a place, 0 elsewhere.
    """
    weights_B = weights.astype(jnp.float32).reshape(weights.shape[0], -1).sum(axis=1)
    return places_BT * (weights_B / jnp.maximum(places_BT.sum(axis=1), 1.0))[:, None]


def cosine_loss(student_BTD: jax.Array, teacher_BTD: jax.Array, weights_BT: jax.Array) -> jax.Array:
    """Returns the weighted sum over tokens of 1 - cos(student, teacher): `loss_cos`."""
    student_BTD, teacher_BTD = student_BTD.astype(jnp.float32), teacher_BTD.astype(jnp.float32)
    lengths_BT = jnp.square(student_BTD).sum(axis=-1) + _EPSILON, jnp.square(teacher_BTD).sum(axis=-1) + _EPSILON
    cosines_BT = (student_BTD * teacher_BTD).sum(axis=-1) * jax.lax.rsqrt(lengths_BT[0] * lengths_BT[1])
    return ((1 - cosines_BT) * weights_BT).sum()


def hidden_loss(student_NBTD: jax.Array, teacher_NBTD: jax.Array, weights_BT: jax.Array) -> jax.Array:
    """Returns the weighted sum over layers and tokens of the mean squared difference of hidden states."""
    squared_NBT = jnp.square(student_NBTD.astype(jnp.float32) - teacher_NBTD.astype(jnp.float32)).mean(axis=-1)
    return (squared_NBT * weights_BT[None]).sum()


_NEAR = -10.0
"""Logarithm of a ratio from which on two probabilities are near each other."""


def attention_loss(student: Mapping[str, Any], teacher: Mapping[str, Any], mask: Mask, weights_BT: Any) -> jax.Array:
    """Returns the weighted sum over layers and tokens, the mean over heads, of KL(teacher || student) of what is
    attended to.

    Args:
      student: `queries` [N, B, T, H, K] and `keys` [N, B, S, G, K], as `layers.Attention` shows them.
      teacher: as many layers and heads; K is its own.
      mask: who sees whom, for both.
      weights_BT: what each query's token counts.
    """
    log_q_NBHTS, log_p_NBHTS = (_log_attended(seen["queries"], seen["keys"], mask) for seen in (student, teacher))
    kl_NBT = divergences(log_p_NBHTS, log_q_NBHTS).sum(axis=-1).mean(axis=2)
    return (kl_NBT * weights_BT[None]).sum()


def divergences(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Returns p log(p / q) - p + q, whose sum over a distribution is KL(p || q), since p and q sum to 1.

    No term is below 0, and of two that are near each other it is the square of their difference: in p log(p / q), which
    sums to the same, terms cancel to that, and what is left of float32 is the rounding of the logarithms.
    """
    above = log_p - log_q
    near = above > _NEAR  # beyond that exp(-above) may overflow, and nothing cancels
    of_near = above + jnp.expm1(-jnp.where(near, above, 0.0))
    return jnp.where(near, jnp.exp(log_p) * of_near, jnp.exp(log_p) * (above - 1) + jnp.exp(log_q))


def _log_attended(queries_NBTHK: jax.Array, keys_NBSGK: jax.Array, mask: Mask) -> jax.Array:
    """Returns float32 [N, B, H, T, S], the logarithms of attention probabilities. What is hidden gets the same score
    from both, far below any other."""
    queries_NBTHK, keys_NBSGK = queries_NBTHK.astype(jnp.float32), keys_NBSGK.astype(jnp.float32)
    keys_NBSHK = jnp.repeat(keys_NBSGK, queries_NBTHK.shape[3] // keys_NBSGK.shape[3], axis=3)
    scores_NBHTS = jnp.einsum("NBTHK,NBSHK->NBHTS", queries_NBTHK, keys_NBSHK) * queries_NBTHK.shape[-1] ** -0.5
    visible_B1TS = mask.dense(scores_NBHTS.shape[-2], scores_NBHTS.shape[-1])
    if visible_B1TS is not None:
        scores_NBHTS = jnp.where(visible_B1TS[None], scores_NBHTS, jnp.float32(MASKED))
    return jax.nn.log_softmax(scores_NBHTS)
