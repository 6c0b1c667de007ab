"""Unstacked parameters, an array for each layer, for decoding on a CPU.

Parameters are stored stacked, and a loop slices each layer's out of the stack: on a CPU this copies all weights for
every token. That is half of a decoder's time, which is bound by reading its weights. Where each layer has arrays of its
own, and they are stacked inside the compiled program, the compiler finds that a slice of the stack is one of them, and
neither stacks nor copies.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.layers.execution import Execution
from transformer.models.architecture import Architecture


def for_decoding(architecture: Architecture, params: Any, execution: Execution) -> tuple[nn.Module, Any]:
    """Returns a model and its weights in the form that decodes fastest here; on a CPU, the weights are copied."""
    if jax.default_backend() != "cpu":
        return architecture.build(execution), params
    return architecture.build(dataclasses.replace(execution, unroll=0)), unstack(architecture, params)


def unstack(architecture: Architecture, params: Any) -> Any:
    """Returns the parameters with a tuple of arrays, one for each layer, in place of each stacked array."""
    split = lambda stacked, leaf: tuple(jnp.array(layer) for layer in leaf) if stacked else leaf  # noqa: E731
    return jax.tree.map(split, _stacked(architecture), params)


def restack(architecture: Architecture, params: Any) -> Any:
    """Returns the parameters stacked, whether they were unstacked or not; free inside a compiled program."""
    join = lambda _, leaf: jnp.stack(leaf) if isinstance(leaf, tuple) else leaf  # noqa: E731
    return jax.tree.map(join, _stacked(architecture), params)


def _stacked(architecture: Architecture) -> Any:
    """Returns a tree of which parameters are stacked."""
    return jax.tree.map(
        lambda box: box.names[0] == "layers",
        architecture.abstract_params(),
        is_leaf=lambda box: isinstance(box, nn.meta.AxisMetadata),
    )
