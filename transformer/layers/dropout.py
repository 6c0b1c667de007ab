"""Dropout as a module, on the random stream "dropout"."""

import flax.linen as nn
import jax

from transformer.ops.dropout import dropout


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` in training."""

    rate: float

    def __call__(self, x: jax.Array, *, deterministic: bool) -> jax.Array:
        """Returns `x`, with dropout unless `deterministic`; no random stream is needed where nothing is dropped."""
        if deterministic or self.rate == 0.0:
            return x
        return dropout(x, self.rate, self.make_rng("dropout"))
