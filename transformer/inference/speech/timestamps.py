"""The rules of tokens of times: in pairs, never backwards, and said where they are likelier than any word.

Shape letters: R rows, V vocabulary, L tokens so far with room for those to come.
"""

import jax
import jax.numpy as jnp
from flax import struct


class TimeRules(struct.PyTreeNode):
    """A further rule of `Processors` (Radford et al. 2022, section 4.5, and its released code, `ApplyTimestampRules`).

    Every segment stands between two times, and one's end and the next one's start stand side by side.
    """

    first_time: int = struct.field(pytree_node=False)
    """The token of 0 seconds; those after it are times, the one before it is never said, those before that are words
    and specials."""
    stop: int = struct.field(pytree_node=False)
    """The token that ends a transcript, which is the first of the specials."""
    latest_first: int | None = struct.field(pytree_node=False)
    """The latest time that may come first, counted from `first_time`; None: any."""

    def __call__(self, scores_RV: jax.Array, history_RL: jax.Array, index: jax.Array, end: jax.Array) -> jax.Array:
        """Returns the scores, -inf where a token is against the rules; arguments as `Processors.__call__`'s."""
        ids_V = jnp.arange(scores_RV.shape[1], dtype=jnp.int32)
        places_L = jnp.arange(history_RL.shape[1], dtype=jnp.int32)
        is_time_V = (ids_V >= self.first_time)[None]
        said_RL = (history_RL >= self.first_time) & ((places_L >= end - index) & (places_L < end))[None]
        newest_R = jnp.max(jnp.where(said_RL, history_RL, -1), axis=1)
        last_R = _at(said_RL, end - 1) & (index >= 1)
        before_R = _at(said_RL, end - 2) | (index < 2)

        banned_RV = (ids_V == self.first_time - 1)[None]
        banned_RV |= (last_R & before_R)[:, None] & is_time_V  # a pair is whole: words come next
        banned_RV |= (last_R & ~before_R)[:, None] & (ids_V < self.stop)[None]  # a segment ended: another time, or all
        # The end of a segment may be the start of the next one; otherwise times go on.
        earliest_R = jnp.where(last_R & ~before_R, newest_R, newest_R + 1)
        banned_RV |= is_time_V & (ids_V[None] < earliest_R[:, None])
        starts = index == 0
        banned_RV |= starts & ~is_time_V
        if self.latest_first is not None:
            banned_RV |= starts & (ids_V > self.first_time + self.latest_first)[None]
        scores_RV = jnp.where(banned_RV, -jnp.inf, scores_RV)

        log_probs_RV = jax.nn.log_softmax(scores_RV, axis=-1)
        of_times_R = jax.nn.logsumexp(jnp.where(is_time_V, log_probs_RV, -jnp.inf), axis=1)
        of_word_R = jnp.max(jnp.where(is_time_V, -jnp.inf, log_probs_RV), axis=1)
        return jnp.where((of_times_R > of_word_R)[:, None] & ~is_time_V, -jnp.inf, scores_RV)


def _at(rows_RL: jax.Array, place: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(rows_RL, jnp.maximum(place, 0), axis=1, keepdims=False)
