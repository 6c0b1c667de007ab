"""Meshes, and the one resolver from logical axis names to mesh axes.

Model code names the axes of its parameters and activations; a run chooses a mesh; this file is the only place that
joins them. The resolver is strict: an unknown name, two names of one array on the same mesh axis, and a dimension that
its mesh axes do not divide are errors, because XLA and Flax would silently replicate (or pad) instead.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from transformer import checks
from transformer.errors import UserError
from transformer.params import Names, map_parameters, param_names

MESH_AXES = ("data", "fsdp", "tensor", "sequence")

# Logical axis name -> the mesh axes that it is split over. Parameters are split by `fsdp` along the model width and by
# `tensor` along heads, MLP width and vocabulary (Megatron-LM's split); activations by `data` and `fsdp` along
# the batch.
RULES: dict[str, tuple[str, ...]] = {
    "layers": (),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head": (),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "positions": (),
    "distances": (),
    "types": (),
    "out": (),
    "label": (),
    "activation_batch": ("data", "fsdp"),
    "activation_length": ("sequence",),
    "activation_embed": (),
    "activation_heads": ("tensor",),
    "activation_kv_heads": ("tensor",),
    "activation_head": (),
    "activation_mlp": ("tensor",),
    "activation_vocab": ("tensor",),
}

RESIDUAL = ("activation_batch", "activation_length", "activation_embed")
"""The axes of what goes from block to block."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis has. Their product is the number of devices used."""

    data: int | None = None
    """Devices that hold copies of the model and split the batch; by default all that the other axes leave."""
    fsdp: int = 1
    """Devices that split the batch, and parameters and optimizer state along the model width (ZeRO-3)."""
    tensor: int = 1
    """Devices that split heads, MLP width and vocabulary (Megatron-LM)."""
    sequence: int = 1
    """Devices that split the sequence length of activations."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, *MESH_AXES)


def mesh_sizes(config: MeshConfig, *, data: int) -> dict[str, int]:
    """Returns mesh axis -> devices, with so many along `data` where that is not given."""
    return dataclasses.asdict(config) | {"data": data if config.data is None else config.data}


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh, on the first `data * fsdp * tensor * sequence` of `devices` (all devices by default).

    Raises:
      UserError: more devices are asked for than there are.
    """
    devices = jax.devices() if devices is None else devices
    others = config.fsdp * config.tensor * config.sequence
    sizes = mesh_sizes(config, data=max(len(devices) // max(others, 1), 1))
    needed = math.prod(sizes.values())
    described = " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "data 1"
    if needed > len(devices):
        raise UserError(
            f"the mesh {described} needs {needed} devices and there are {len(devices)} ({devices[0].platform}): "
            "lower --mesh.* (JAX_NUM_CPU_DEVICES=8 gives eight fake devices on a CPU)"
        )
    if needed < len(devices) and jax.process_count() > 1:
        raise UserError(
            f"the mesh {described} uses {needed} of {len(devices)} devices: over several hosts it must use all"
        )
    shape = tuple(sizes[axis] for axis in MESH_AXES)
    return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices[:needed])


def batch_divisor(mesh: Mesh) -> int:
    """Returns into how many parts the mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in RULES["activation_batch"])


def resolve(
    names: Sequence[str | None], shape: Sequence[int], mesh_shape: Mapping[str, int], *, what: str
) -> PartitionSpec:
    """Returns the partition of one array.

    Args:
      names: a logical name for each dimension (None: not split).
      shape: the array's shape.
      mesh_shape: mesh axis -> its size.
      what: what the array is, for the error message.

    Raises:
      KeyError: an unknown logical name (a bug of the model's, hence no UserError).
      UserError: two names on one mesh axis, or a dimension that its mesh axes do not divide.
    """
    if len(names) != len(shape):
        raise ValueError(f"{what}: {len(names)} axis names for shape {tuple(shape)}")
    check_names(names, what)
    taken: dict[str, str] = {}
    spec = []
    for name, size in zip(names, shape, strict=True):
        axes = tuple(axis for axis in (RULES[name] if name else ()) if mesh_shape.get(axis, 1) > 1)
        for axis in axes:
            if axis in taken:
                raise UserError(f"{what}: axes {taken[axis]!r} and {name!r} are both split over mesh axis {axis!r}")
            taken[axis] = str(name)
        parts = math.prod(mesh_shape[axis] for axis in axes)
        if size % parts:
            raise UserError(
                f"{what}: its {name!r} dimension of {size} is not divided by {' x '.join(axes)} = {parts} devices: "
                f"change --mesh.{axes[0]}, or the model's size"
            )
        spec.append(axes if len(axes) > 1 else axes[0] if axes else None)
    return PartitionSpec(*spec)


def param_shardings(boxed, mesh: Mesh):
    """Returns the tree of `NamedSharding`s of a tree of boxed (abstract) parameters; raises as `resolve` does."""

    def sharding(path: str, names: Names, leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, resolve(names, leaf.shape, mesh.shape, what=f"parameter {path}"))

    return map_parameters(sharding, param_names(boxed), nn.meta.unbox(boxed))


def abstract_on(boxed: Any, mesh: Any) -> Any:
    """Returns parameters with logical axis names as `ShapeDtypeStruct`s laid out on a mesh: what a restore aims at."""
    return with_shardings(nn.meta.unbox(boxed), param_shardings(boxed, mesh))


def with_shardings(abstract, shardings):
    """Returns the tree of `ShapeDtypeStruct`s with their shardings."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of every array of a batch, whatever its rank: rows over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(RULES["activation_batch"]))


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


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Fixes how the compiler lays out a large activation on the mesh of today; does nothing where no mesh is set.

    An unknown name raises, mesh or not. A dimension that its mesh axes do not divide (one token in decoding, a batch of
    one prompt) is left to the compiler: for an activation that costs speed at most, never memory for the whole run.
    """
    if len(names) != x.ndim:
        raise ValueError(f"{len(names)} axis names for shape {x.shape}")
    check_names(names, "an activation")
    rules = [() if name is None else RULES[name] for name in names]
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    spec = []
    for axes, size in zip(rules, x.shape, strict=True):
        divided = size % math.prod(mesh.shape[axis] for axis in axes) == 0
        spec.append(axes if axes and divided else None)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def check_names(names: Sequence[str | None], what: str) -> None:
    """Raises `KeyError` for a logical name without a rule: a bug of the model's, hence no UserError."""
    for name in names:
        if name is not None and name not in RULES:
            raise KeyError(f"{what}: unknown logical axis {name!r}; known: {', '.join(RULES)}")
