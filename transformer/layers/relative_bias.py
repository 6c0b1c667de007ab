"""A learned bias of the attention scores by distance: Raffel et al. 2020 (T5), section 2.1.

Shape letters: B batch, T query length, S key length, H heads, R buckets.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.layers.primitives import Initializer, parameter
from transformer.parallel.rules import constrain


class RelativeBias(nn.Module):
    """A number for each head and bucket of distances: computed once a stack, handed to all its layers."""

    num_heads: int
    num_buckets: int
    max_distance: int
    """From this distance on, all keys share a bucket."""
    bidirectional: bool
    """Whether keys after the query have buckets of their own, half of all (an encoder); or share that of distance 0."""
    table_init: Initializer

    @nn.compact
    def __call__(self, q_positions_BT: jax.Array, key_positions_BS: jax.Array) -> jax.Array:
        """Returns float32 [B, H, T, S]; B may be 1, where the positions are the same in all rows.

        Args:
          q_positions_BT: int32, of the queries: the new ones alone, where there is a cache.
          key_positions_BS: int32, of the keys, or of a cache's slots.
        """
        shape = (self.num_buckets, self.num_heads)
        table_RH = parameter(self, "embedding", self.table_init, ("distances", "heads"), shape)
        ahead_BTS = q_positions_BT[:, :, None] - key_positions_BS[:, None, :]
        furthest = self.max_distance
        if self.bidirectional:
            before, after = buckets(furthest, self.num_buckets // 2), self.num_buckets // 2
            by_distance = np.concatenate([after + before[:0:-1], before])  # of -furthest ... furthest
            index_BTS = jnp.clip(ahead_BTS, -furthest, furthest) + furthest
        else:
            by_distance = buckets(furthest, self.num_buckets)
            index_BTS = jnp.clip(ahead_BTS, 0, furthest)
        # The few distances' biases first: the large look-up is then one. (A product with one-hot buckets takes four
        # times as long on a CPU, forward and backward.)
        bias_BHTS = jnp.moveaxis(jnp.take(table_RH[by_distance], index_BTS, axis=0), -1, 1)
        return constrain(bias_BHTS, "activation_batch", "activation_heads", "activation_length", None)


def buckets(max_distance: int, count: int) -> np.ndarray:
    """Returns the bucket of each distance 0, 1, ... max_distance: int32 [max_distance + 1].

    The first half are of one distance each; the rest grow geometrically, up to `max_distance` and all beyond it (Mesh
    TensorFlow, `_relative_position_bucket`). A table: logarithms on a device would round where a bucket begins.
    """
    exact = count // 2
    distance = np.arange(max_distance + 1)
    growth = np.log(np.maximum(distance, exact) / exact) / np.log(max_distance / exact)
    large = np.minimum(exact + (growth * (count - exact)).astype(np.int32), count - 1)
    return np.where(distance < exact, distance, large).astype(np.int32)
