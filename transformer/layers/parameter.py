"""Where every parameter is born: in float32, with a logical name for each axis."""

from collections.abc import Callable
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.sharding import RULES

Initializer = Callable[..., jax.Array]


def parameter(
    module: nn.Module, name: str, init: Initializer, axes: tuple[str, ...], shape: tuple[int, ...]
) -> jax.Array:
    """Returns the float32 parameter `name` [*shape] of a module, its axes named; an unknown axis raises `KeyError`."""
    for axis in axes:
        if axis not in RULES:
            raise KeyError(f"parameter {name!r}: unknown logical axis {axis!r}; known: {', '.join(RULES)}")
    return cast(jax.Array, module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32))
