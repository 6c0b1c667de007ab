"""Multiplication by a constant that 16 bits do not hold."""

import jax
import jax.numpy as jnp


def scaled(x: jax.Array, factor: float | jax.Array) -> jax.Array:
    """Returns `x` (any shape) times `factor`, in the dtype of `x`: multiplied in float32, rounded once.

    In bfloat16 the factor itself would be rounded, by up to 0.4 %, and all of `x` would be off the same way.
    """
    return (x.astype(jnp.float32) * jnp.float32(factor)).astype(x.dtype)
