"""A backbone's weights under another head."""

from typing import Any

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models.architecture import Architecture

_SHOWN = 5


def graft(architecture: Architecture, params: Any, fresh: Any = None) -> tuple[Any, list[str], list[str]]:
    """Returns the parameters of an architecture, from those of one with the same backbone.

    Args:
      architecture: what the parameters are for.
      params: a tree of arrays; what it has of the same path and shape is taken.
      fresh: the architecture's initial parameters, for what is new; None: they are made here, what is new alone.

    Returns:
      The tree, the paths of what is new, and the paths of what was left out. Both lie outside of the backbone.

    Raises:
      UserError: a parameter of the backbone is missing, left over, or of another shape.
    """
    have: dict[str, Any] = flatten_dict(params, sep="/")
    want: dict[str, Any] = flatten_dict(nn.meta.unbox(architecture.abstract_params()), sep="/")
    same = {path for path, leaf in want.items() if path in have and have[path].shape == leaf.shape}
    new, left = sorted(want.keys() - same), sorted(have.keys() - same)
    problems = [
        f"{path} {_shape(have, path)}, needed {_shape(want, path)}"
        for path in sorted({*new, *left})
        if path.startswith("backbone/")
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(f"the weights' backbone is not the architecture's: {'; '.join(problems[:_SHOWN])}{more}")
    result = {path: have[path] for path in same}
    if new:
        initial = _initial(architecture, new) if fresh is None else flatten_dict(fresh, sep="/")
        result |= {path: initial[path] for path in new}
    return unflatten_dict(result, sep="/"), new, left


def _shape(leaves: dict[str, Any], path: str) -> str:
    return str(leaves[path].shape) if path in leaves else "none"


def _initial(architecture: Architecture, paths: list[str]) -> dict[str, jax.Array]:
    """Returns the initial values of some parameters; the compiler leaves out the others."""
    module = architecture.build(Execution())

    @jax.jit
    def init():
        boxed = module.init(jax.random.key(0), **architecture.example_inputs())["params"]
        flat = flatten_dict(nn.meta.unbox(boxed), sep="/")
        return {path: flat[path] for path in paths}

    return init()
