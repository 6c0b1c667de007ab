"""Divergence of a student's words from a teacher's: what a teacher says of all words, not of the right one alone.

Shape letters: B batch, T length, V vocabulary, C chunk.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from transformer.ops.word_loss import Words, word_loss
from transformer.parallel.local import summed_along


class _Sum(NamedTuple):
    divergence: jax.Array


def divergence(
    words: Words, teacher: Words, weights_BT: jax.Array, *, temperature: float, chunk: int | None = None
) -> jax.Array:
    """Returns the weighted sum over tokens of t^2 KL(teacher || student) at a temperature t, float32.

    Both distributions are softmax(scores / t). The factor t^2 keeps the gradients' size whatever t (Hinton et al. 2015,
    "Distilling the knowledge in a neural network", section 2).

    Args:
      words: the student's.
      teacher: the teacher's, of the same vocabulary; gets no gradient.
      weights_BT: what each token counts; not differentiated.
      temperature: t.
      chunk: as of `cross_entropy`; it holds the chunk's scores of both.
    """
    weights_BT = weights_BT.astype(jnp.float32)
    return word_loss(_FromTeacher(temperature), words, teacher, weights_BT, chunk=chunk).divergence


def divergence_of_scores(scores: jax.Array, teacher: jax.Array, *, temperature: float) -> jax.Array:
    """Returns t^2 KL(teacher || student) over the last axis, float32, of scores that are all there; as `divergence`."""
    log_p, log_q = (jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (teacher, scores))
    return temperature**2 * (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class _FromTeacher:
    """The divergence of scores from a teacher's (`word_loss.WordLoss`)."""

    sums: ClassVar[Any] = _Sum

    temperature: float

    def __call__(
        self, scores_BCV: jax.Array, teacher_BCV: jax.Array, per_token: Any, vocab_axes, *, with_gradients: bool
    ) -> tuple[_Sum, jax.Array | None]:
        t, weights_BC = self.temperature, per_token
        log_p_BCV, log_q_BCV = (_log_softmax(x_BCV / t, vocab_axes) for x_BCV in (teacher_BCV, scores_BCV))
        p_BCV = jnp.exp(log_p_BCV)
        divergence_BC = t * t * summed_along((p_BCV * (log_p_BCV - log_q_BCV)).sum(axis=-1), vocab_axes)
        sum_ = _Sum((divergence_BC * weights_BC).sum())
        if not with_gradients:
            return sum_, None
        return sum_, (t * weights_BC)[..., None] * (jnp.exp(log_q_BCV) - p_BCV)


def _log_softmax(x_BCV: jax.Array, vocab_axes: tuple[str, ...]) -> jax.Array:
    """Returns the logarithms of softmax over the vocabulary, of which V is this device's part."""
    peak_BC1 = x_BCV.max(axis=-1, keepdims=True)
    if vocab_axes:
        peak_BC1 = jax.lax.pmax(peak_BC1, vocab_axes)
    sum_BC1 = summed_along(jnp.exp(x_BCV - peak_BC1).sum(axis=-1, keepdims=True), vocab_axes)
    return x_BCV - peak_BC1 - jnp.log(sum_BC1)
