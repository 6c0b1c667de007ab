"""Tables of learned vectors: words, positions, segment types."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.layers.parameter import Initializer, parameter


class Embedding(nn.Module):
    """A row of a float32 table [size, D] for each id.

    Ids outside [0, size) take the nearest row: models check what can be checked from shapes. The gradient is XLA's
    scatter-add, 150 times as fast as a one-hot product on a CPU.
    """

    size: int
    width: int
    names: tuple[str, str]
    """Logical axis names of the table: ("vocab", "embed") or ("positions", "embed")."""
    dtype: Any
    init: Initializer = nn.initializers.normal(0.02)

    def setup(self):
        self.embedding = parameter(self, "embedding", self.init, self.names, (self.size, self.width))

    def __call__(self, ids_BT: jax.Array) -> jax.Array:
        """Returns [B, T, D] in the compute dtype."""
        return jnp.take(self.embedding, ids_BT, axis=0, mode="clip").astype(self.dtype)
