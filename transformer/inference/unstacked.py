"""Unstacked parameters, an array for each layer, for decoding on a CPU.

Parameters are stored stacked, and a loop slices each layer's out of the stack: on a CPU this copies all weights for
every token. That is half of a decoder's time, which is bound by reading its weights. Where each layer has arrays of its
own, and they are stacked inside the compiled program, the compiler finds that a slice of the stack is one of them, and
neither stacks nor copies. The same holds of the cache, and of what an encoder-decoder keeps of its encoder's output,
which for a sequence of 1,500 places (speech) is most of what a step reads.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.layers.cache import EncoderDecoderCache, KVCache, by_slots, by_tokens
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


def unstack_cache(params: Any, cache: Any) -> Any:
    """Returns a cache in the form that steps read fastest: where the parameters are unstacked, it is too.

    Each layer's keys and values are then arrays of their own; those of the encoder's output are turned as a product
    with the queries reads them, once rather than for every token.
    """
    if not any(isinstance(leaf, tuple) for leaf in jax.tree.leaves(params, is_leaf=_is_tuple)):
        return cache
    if isinstance(cache, KVCache):
        return cache.unstacked()
    if cache.memory is None:
        return cache
    memory = tuple(tuple(map(by_slots, stack_NBSGK)) for stack_NBSGK in cache.memory)
    return cache.replace(own=cache.own.unstacked(), memory=memory)


def restack_memory(cache: Any) -> Any:
    """Returns a cache as a model takes it, whether its memory was unstacked or not; free inside a compiled program."""
    if not has_unstacked_memory(cache):
        return cache
    # Without a barrier the compiler sees that it is turned back in every step alike, turns it back before the loop, and
    # copies it as the product needs it in every step.
    memory = jax.lax.optimization_barrier(cache.memory)
    return cache.replace(memory=tuple(jnp.stack([*map(by_tokens, layers)]) for layers in memory))


def has_unstacked_memory(cache: Any) -> bool:
    """Whether `unstack_cache` made the cache, of an encoder-decoder."""
    return isinstance(cache, EncoderDecoderCache) and cache.memory is not None and isinstance(cache.memory[0], tuple)


def _is_tuple(leaf: Any) -> bool:
    return isinstance(leaf, tuple)
