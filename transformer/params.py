"""The vocabulary of parameters: each array of a tree with its path and the logical names of its axes."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax


class Parameter(NamedTuple):
    """An array of parameters, without its values."""

    path: tuple[str, ...]
    """Modules, from the outermost, and the array's own name."""
    names: tuple[str | None, ...]
    """The logical name of each axis."""
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in the array."""
        return math.prod(self.shape)

    @property
    def is_stacked(self) -> bool:
        """Whether the array holds the parameters of several layers, one behind another."""
        return "layers" in self.names

    @property
    def layers(self) -> int:
        """Layers whose parameters the array holds, 1 where it is not stacked."""
        return self.shape[self.names.index("layers")] if self.is_stacked else 1


def flat(boxed: Any) -> tuple[Parameter, ...]:
    """Returns every array of a tree of `nn.LogicallyPartitioned` (abstract) parameters, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=lambda node: isinstance(node, nn.LogicallyPartitioned))
    return tuple(Parameter(tuple(key.key for key in path), leaf.names, leaf.value.shape) for path, leaf in leaves)
