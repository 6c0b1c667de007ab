"""Normalisation over the model width, computed in float32 whatever the compute dtype.

Only the input is kept for the backward pass; what is computed again is a pass over an array that is read anyway.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.layers.parameter import parameter


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias: Ba, Kiros and Hinton 2016, equation 4."""

    epsilon: float
    dtype: Any
    """Dtype of the output."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` [..., D] normalised over D."""
        scale, bias = _parameter(self, "scale", 1.0, x), _parameter(self, "bias", 0.0, x)
        return _layer_norm(x, scale, bias, self.epsilon).astype(self.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * scale: Zhang and Sennrich 2019, equation 4 (T5, LLaMA)."""

    epsilon: float
    dtype: Any
    """Dtype of the output."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` [..., D] normalised over D."""
        return _rms_norm(x, _parameter(self, "scale", 1.0, x), self.epsilon).astype(self.dtype)


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(3,))
def _layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    x = x.astype(jnp.float32)
    x -= x.mean(axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + epsilon) * scale + bias


@functools.partial(jax.checkpoint, prevent_cse=False, static_argnums=(2,))
def _rms_norm(x: jax.Array, scale: jax.Array, epsilon: float) -> jax.Array:
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + epsilon) * scale


def _parameter(module: nn.Module, name: str, value: float, x: jax.Array) -> jax.Array:
    """Returns a float32 parameter [D], shaped to broadcast against `x` [..., D]."""
    vector_D = parameter(module, name, nn.initializers.constant(value), ("embed",), x.shape[-1:])
    return jnp.expand_dims(vector_D, tuple(range(x.ndim - 1)))
