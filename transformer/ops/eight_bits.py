"""Eight bits: arrays as 8-bit floats with a scale each, for matrix products (Micikevicius et al. 2022, "FP8 Formats for
Deep Learning").

A scale is that of the array itself ("current" scaling): nothing is remembered from step to step. It is a power of two,
so that a number is rounded once, to 8 bits, and what a product reads is exact in any dtype of compute. XLA makes one
kernel of such a product where the GPU has one (cublasLt's, since Ada and Hopper); elsewhere it computes the same
numbers in the dtype of compute.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

FORWARD, BACKWARD = jnp.float8_e4m3fn, jnp.float8_e5m2
"""Formats of activations and weights, which need digits, and of gradients, which need range (the paper, section 3)."""
_SMALLEST, _LARGEST = -100, 100
"""Exponents of scales: within the range of all dtypes of compute."""


class EightBits(struct.PyTreeNode):
    """An array, rounded to 8 bits."""

    values: jax.Array
    """float8, the array divided by its scale."""
    scale: jax.Array
    """float32 [], a power of two."""

    def widened(self, dtype: Any) -> jax.Array:
        """Returns the array in a wider dtype, exactly."""
        return self.values.astype(dtype) * self.scale.astype(dtype)


def eight_bits(x: jax.Array, dtype: Any) -> EightBits:
    """Returns `x` rounded to an 8-bit dtype, whose range its largest number fills, to a factor of two.

    What is not finite makes everything so: an update of it is skipped.
    """
    largest = jnp.abs(x).max().astype(jnp.float32)
    _, exponent = jnp.frexp(largest / float(jnp.finfo(dtype).max))
    exponent = jnp.where(largest > 0, jnp.clip(exponent, _SMALLEST, _LARGEST), 0)
    scale = jnp.where(jnp.isfinite(largest), jnp.ldexp(jnp.float32(1), exponent), jnp.float32(jnp.nan))
    return EightBits((x.astype(jnp.float32) / scale).astype(dtype), scale)
