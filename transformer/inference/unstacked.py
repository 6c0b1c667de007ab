"""Unstacked parameters, an array for each layer, for decoding on a CPU.

Parameters are stored stacked, and a loop slices each layer's out of the stack: on a CPU this copies all weights for
every token. That is half of a decoder's time, which is bound by reading its weights. Where each layer has arrays of its
own, and they are stacked inside the compiled program, the compiler finds that a slice of the stack is one of them, and
neither stacks nor copies.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from transformer.layers.execution import Execution
from transformer.models.architecture import Architecture
from transformer.parallel.local import target_platform
from transformer.params import is_stacked, map_parameters, param_names


def for_decoding(architecture: Architecture, params: Any, execution: Execution) -> tuple[nn.Module, Any]:
    """Returns a model and its weights in the form that decodes fastest here; on a CPU, the weights are copied."""
    if target_platform() != "cpu":
        return architecture.build(execution), params
    return architecture.build(dataclasses.replace(execution, unroll=0)), unstack(architecture, params)


def unstack(architecture: Architecture, params: Any) -> Any:
    """Returns the parameters with a tuple of arrays, one for each layer, in place of each stacked array."""
    names = param_names(architecture.abstract_params())
    split = lambda _, axes, leaf: tuple(jnp.array(layer) for layer in leaf) if is_stacked(axes) else leaf  # noqa: E731
    return map_parameters(split, names, params)


def restack(architecture: Architecture, params: Any) -> Any:
    """Returns the parameters stacked, whether they were unstacked or not; free inside a compiled program."""
    names = param_names(architecture.abstract_params())
    join = lambda _, axes, leaf: jnp.stack(leaf) if isinstance(leaf, tuple) else leaf  # noqa: E731
    return map_parameters(join, names, params)
