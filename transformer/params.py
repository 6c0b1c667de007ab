"""The vocabulary of parameters: their paths, the logical names of their axes, and the kinds that follow from both.

Whoever has to know of a parameter what it is called, whether it is stacked or a matrix, or to lay a tree of parameters
out flat, asks here. A tree's leaves are arrays, abstract arrays, or boxes (`nn.LogicallyPartitioned`), which hold an
array with the names of its axes.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.traverse_util import unflatten_dict

Names = tuple[str | None, ...]
"""The logical name of each axis of a parameter; None: an axis that is never split."""

STACKING = frozenset({"layers", "experts"})
"""Axes along which parameters of the same kind lie one behind another: no axis of any one of them."""
_VECTORS = frozenset({"bias", "scale", "sinusoids", "lora_magnitude"})
"""Arrays that are added to activations or scale them. All others multiply activations as matrices do."""


FACTORS = ("lora_a", "lora_b", "lora_magnitude")
"""Arrays of an adapter, beside the kernel that they change: low-rank factors, and with DoRA lengths of outputs."""


def is_stacked(names: Names) -> bool:
    """Whether an array with these axes holds the parameters of several layers, or of several experts."""
    return not STACKING.isdisjoint(names)


def layer_axes(names: Names) -> tuple[int, ...]:
    """Returns the axis of layers, if there is one: of experts, which are stacked too, each layer has its own."""
    return tuple(axis for axis, name in enumerate(names) if name == "layers")


def stacked_axes(names: Names) -> tuple[int, ...]:
    """Returns the axes along which parameters are stacked."""
    return tuple(axis for axis, name in enumerate(names) if name in STACKING)


def own_axes(names: Names) -> tuple[int, ...]:
    """Returns the axes that each of the stacked parameters has."""
    return tuple(axis for axis, name in enumerate(names) if name not in STACKING)


def is_matrix(path: str) -> bool:
    """Whether a parameter multiplies activations; its rank cannot tell: layers and heads are axes too."""
    return name_of(path) not in _VECTORS


def name_of(path: str) -> str:
    """Returns an array's own name, without its modules: `kernel`."""
    return path.rpartition("/")[2]


def modules_of(path: str) -> list[str]:
    """Returns the paths of the modules that an array is in, the outermost first."""
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


class Parameter(NamedTuple):
    """An array of parameters, without its values."""

    path: str
    """Modules, from the outermost, and the array's own name: `backbone/stack/layers/mlp/up/kernel`."""
    names: Names
    shape: tuple[int, ...]

    @property
    def modules(self) -> list[str]:
        """The modules' own names, from the outermost."""
        return self.path.split("/")[:-1]

    @property
    def size(self) -> int:
        """Numbers in the array."""
        return math.prod(self.shape)

    @property
    def layers(self) -> int:
        """Layers whose parameters the array holds, 1 where it is not stacked."""
        return math.prod(self.shape[axis] for axis in layer_axes(self.names))


def parameters(boxed: Any) -> dict[str, Parameter]:
    """Returns path -> parameter of a tree of boxes of (abstract) arrays, in the tree's order."""
    return {path: Parameter(path, box.names, box.value.shape) for path, box in flatten(boxed).items()}


def flatten(tree: Any) -> dict[str, Any]:
    """Returns path -> leaf, in the tree's order; a box is a leaf. Any tree will do, such as an optimizer's state."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_box)
    return {_path(keys): leaf for keys, leaf in leaves}


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree of nested dicts that `flatten` makes such leaves of."""
    return unflatten_dict(leaves, sep="/")


def param_names(tree: Any) -> Any:
    """Returns the tree of the `Names` of a tree of boxes; an array without a box has None for each axis."""
    return jax.tree.map(lambda leaf: tuple(leaf.names) if _is_box(leaf) else (None,) * leaf.ndim, tree, is_leaf=_is_box)


def is_names(node: Any) -> bool:
    """Whether a node of a tree is a leaf of `param_names`."""
    return isinstance(node, tuple) and all(name is None or isinstance(name, str) for name in node)


def map_parameters(function: Callable[..., Any], names: Any, *trees: Any) -> Any:
    """Returns the tree of function(path, names, *leaves), by a tree of `Names` and trees like it."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, *leaves: function(_path(keys), *leaves), names, *trees, is_leaf=is_names
    )


def _path(keys: tuple) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _is_box(node: Any) -> bool:
    return isinstance(node, nn.LogicallyPartitioned)
