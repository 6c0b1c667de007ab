"""Layout: the shardings of parameters and batches on a mesh, and which rows of a batch a process holds."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from transformer.parallel.rules import RULES, resolve, split_axes
from transformer.params import Names, map_parameters, param_names, stacked_axes


def batch_divisor(mesh: Mesh | AbstractMesh) -> int:
    """Returns into how many parts the mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in RULES["activation_batch"])


def param_shardings(boxed, mesh: Mesh):
    """Returns the tree of `NamedSharding`s of a tree of boxed (abstract) parameters; raises as `resolve` does."""

    def sharding(path: str, names: Names, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, resolve(names, leaf.shape, mesh.shape, what=f"parameter {path}"))

    return map_parameters(sharding, param_names(boxed), nn.meta.unbox(boxed))


def spread(sharding: NamedSharding, names: Names, shape: Sequence[int], axis: str) -> NamedSharding:
    """Returns an array's sharding with a mesh axis more, along the dimension that is left the longest on a device.

    A dimension that another axis of the batch splits goes first: the sum of gradients over both axes then leaves each
    device its part in one reduce-scatter, where XLA makes an all-reduce of two dimensions. Layers go last: a loop over
    them reads and writes one at a time. Where the axis divides no dimension, it splits none.

    Args:
      sharding: the array's own.
      names: its logical axis names.
      shape: its shape.
      axis: a mesh axis that splits none of its dimensions yet.
    """
    size, local = sharding.mesh.shape[axis], sharding.shard_shape(tuple(shape))
    stacked = stacked_axes(names)
    able = [dim for dim, length in enumerate(local) if length % size == 0]
    if size == 1 or not able:
        return sharding
    spec = [*sharding.spec, *[None] * (len(shape) - len(sharding.spec))]
    axes = [() if entry is None else entry if isinstance(entry, tuple) else (entry,) for entry in spec]
    rows = set(RULES["activation_batch"])
    chosen = max(able, key=lambda dim: (dim not in stacked, not rows.isdisjoint(axes[dim]), local[dim]))
    spec[chosen] = (*axes[chosen], axis) if axes[chosen] else axis
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def abstract_on(boxed: Any, mesh: Any) -> Any:
    """Returns parameters with logical axis names as `ShapeDtypeStruct`s laid out on a mesh: what a restore aims at."""
    return with_shardings(nn.meta.unbox(boxed), param_shardings(boxed, mesh))


def with_shardings(abstract, shardings):
    """Returns the tree of `ShapeDtypeStruct`s with their shardings."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every array of a batch, whatever its rank: rows over `data`, `fsdp` and `expert`."""
    axes = split_axes(RULES["activation_batch"], mesh.shape)
    return NamedSharding(mesh, PartitionSpec(axes) if axes else PartitionSpec())


class BatchLayout:
    """Which rows of a global batch this process needs, and putting them on its devices.

    The rows follow from the mesh alone: processes whose devices hold copies of each other (along `tensor` or
    `sequence`) need the same rows, and the rows of one process need not lie together.
    """

    def __init__(self, mesh: Mesh, batch_size: int):
        """A layout of batches of `batch_size` rows over all processes, which `batch_divisor` divides."""
        self.batch_size = batch_size
        self._sharding = batch_sharding(mesh)
        parts = self._sharding.addressable_devices_indices_map((batch_size,)).values()
        held = np.zeros(batch_size, bool)
        for part in parts:
            assert part is not None
            held[part] = True
        self.rows = np.flatnonzero(held)
        """int64, rising: the numbers of the rows in the global batch."""

    def place(self, batch: Any) -> Any:
        """Returns a tree of global arrays [batch_size, ...] from this process's rows [len(rows), ...], in order."""
        return jax.tree.map(self._place, batch)

    def _place(self, x: np.ndarray) -> jax.Array:
        if len(x) != len(self.rows):
            raise ValueError(f"{len(x)} rows, and this process holds {len(self.rows)} of {self.batch_size}")

        def part(index: Any) -> np.ndarray:
            start, stop, _ = index[0].indices(self.batch_size)
            first = int(np.searchsorted(self.rows, start))  # one device's rows lie together
            return x[first : first + stop - start]

        return jax.make_array_from_callback((self.batch_size, *x.shape[1:]), self._sharding, part)
