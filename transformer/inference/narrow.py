"""Weights in 16 bits, for models that compute in 16 bits: half the memory, and half of what a step of decoding reads.

A matrix that is rounded to the compute dtype wherever it is read may be kept rounded: the numbers are the same. Vectors
(norms, biases) and what computes in float32 whatever the dtype (routers, relative biases) stay in float32.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.layers.execution import Execution
from transformer.layers.experts import ExpertKernels
from transformer.layers.heads import LanguageModelHead
from transformer.layers.primitives import Embedding, Linear
from transformer.models.architecture import Architecture
from transformer.params import flatten, unflatten


def narrowed(architecture: Architecture, params: Any, execution: Execution) -> Any:
    """Returns weights whose matrices are in the compute dtype, if that has 16 bits; the wide ones are given up.

    Args:
      architecture: of the weights.
      params: float32 arrays, not stacked otherwise than they are stored, which nobody else holds.
      execution: names the compute dtype.
    """
    dtype = jnp.dtype(execution.compute_dtype)
    if dtype.itemsize >= 4:
        return params
    paths, flat = rounded_paths(architecture, execution), flatten(params)
    for path in flat.keys() & paths:
        wide = flat[path]
        flat[path] = jax.block_until_ready(wide.astype(dtype))
        wide.delete()  # one after another: never are all of them there twice
    return unflatten(flat)


@functools.lru_cache(maxsize=64)
def rounded_paths(architecture: Architecture, execution: Execution) -> frozenset[str]:
    """Returns the paths of the matrices that are read in the compute dtype alone."""
    paths = set()

    def note(method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name == "__call__":
            match module:
                case Linear() | Embedding() if module.dtype == execution.compute_dtype:
                    paths.add("/".join((*module.path, "kernel" if isinstance(module, Linear) else "embedding")))
                case ExpertKernels() | LanguageModelHead():  # read in the dtype of what they are multiplied with
                    paths.add("/".join((*module.path, "kernel")))
        return method(*args, **kwargs)

    model = architecture.build(execution)
    with nn.intercept_methods(note):
        jax.eval_shape(lambda: model.init(jax.random.key(0), **architecture.example_inputs()))
    return frozenset(paths & set(architecture.parameters))
