"""Dropout: Srivastava et al. 2014, in the inverted form, so that evaluation needs no rescaling."""

import jax
import jax.numpy as jnp

from transformer.ops.scale import scaled


def dropout(x: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Returns `x` (any shape) with elements zeroed with probability `rate`, the others scaled to keep the mean.

    Sixteen random bits decide an element, half of what a float32 uniform takes. The probability is rounded to 1/65536
    and the scale is that of the rounded one, so the mean stays exact.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout rate {rate}: it must be in [0, 1)")
    dropped = round(rate * 65536)
    if dropped == 0:
        return x
    kept = jax.random.bits(key, x.shape, jnp.uint16) >= jnp.uint16(dropped)
    return jnp.where(kept, scaled(x, 65536 / (65536 - dropped)), jnp.zeros((), x.dtype))
