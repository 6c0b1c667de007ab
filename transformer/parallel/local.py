"""Local: what a function of one device's parts must know of the mesh that it is compiled for.

Where the compiler's own choice of collectives is a bad one, an operation is written for one device's parts of its
arrays, and says itself what goes between devices (`jax.shard_map`). Here is what such operations ask the mesh.
"""

import math
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from transformer.cluster.agreement import coordination
from transformer.parallel.rules import RULES, check_names, free_axes


def target_platform() -> str:
    """Returns the platform that a function is traced for, such as `cpu`, `gpu` or `tpu`.

    It is that of the mesh in context, whose devices may be described only (compiling ahead of time), or an abstract
    mesh's, if it has one. The host's own decides where no mesh says.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def target_capability() -> tuple[int, int]:
    """Returns the compute capability of the GPUs that a function is traced for; (0, 0) where that is not known.

    Of GPUs of this machine the driver says it. Those that are described only have a name: all generations from Hopper
    on that have a maker's letter in it are told apart, which is what kernels ask.
    """
    described, local = jax.sharding.get_abstract_mesh().abstract_device, jax.local_devices()
    kind = local[0].device_kind if described is None else described.device_kind
    for device in local:
        if device.platform == "gpu" and device.device_kind == kind:
            major, minor = device.compute_capability.split(".")
            return int(major), int(minor)
    generation = re.match(r"NVIDIA G?([HB])\d", kind)  # H100, H20, GH200, B200, GB300, ...
    return (0, 0) if generation is None else {"H": (9, 0), "B": (10, 0)}[generation[1]]


def splitting_axes(name: str) -> tuple[str, ...]:
    """Returns the mesh axes of more than one device that split a logical axis here, outermost first.

    Axes over which a function around this one is written for one device's part already are not among them. Without a
    mesh there are none.
    """
    check_names((name,), "a local function")
    return free_axes(RULES[name], jax.sharding.get_abstract_mesh())


def dividing_axes(name: str, size: int) -> tuple[str, ...]:
    """Returns `splitting_axes` where they split a dimension of `size` into equal parts; else none."""
    axes = splitting_axes(name)
    return axes if divides(axes, size) else ()


def partly_local() -> bool:
    """Returns whether a function around is local along some mesh axes, and others are the compiler's."""
    mesh = jax.sharding.get_abstract_mesh()
    return 0 < len(mesh.manual_axes) < len(mesh.axis_names)


def divides(axes: tuple[str, ...], size: int) -> bool:
    """Returns whether these mesh axes split a dimension of `size` into equal parts."""
    mesh = jax.sharding.get_abstract_mesh()
    return size % math.prod(mesh.shape[axis] for axis in axes) == 0


def on_parts(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """Returns `function`, written for one device's parts, as a function of whole arrays.

    It is local along every mesh axis that is not local already. What is not split by the specifications of its outputs
    must be equal on all devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = set(mesh.axis_names) - set(mesh.manual_axes)
    # Under `check_vma` a hand-written gradient would have to say along which axes it is a partial sum.
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, axis_names=free, check_vma=False)


def devices_along(axes: tuple[str, ...]) -> int:
    """Returns how many devices there are along mesh axes, within a local function."""
    return math.prod(jax.lax.axis_size(axis) for axis in axes)


def summed_along(tree: Any, axes: tuple[str, ...]) -> Any:
    """Returns the sums over the devices along mesh axes, within a local function; the tree itself without axes."""
    return jax.lax.psum(tree, axes) if axes else tree


def scattered_sum(x: jax.Array, axes: str | tuple[str, ...], *, dimension: int) -> jax.Array:
    """Returns this device's part, along a dimension, of the sum over the devices along mesh axes, in a local function.

    A reduce-scatter, but for CPUs of several processes: Gloo's overwrites what it has yet to send, and the last values
    of large parts come out wrong now and then (github.com/jax-ml/jax/issues/40830: seen from 8 MiB on). There the whole
    sum goes to every device, as XLA:CPU does where it places collectives itself.
    """
    if not _gloo_reduces():
        return jax.lax.psum_scatter(x, axes, scatter_dimension=dimension, tiled=True)
    size = x.shape[dimension] // jax.lax.axis_size(axes)
    start = jax.lax.axis_index(axes) * size
    return jax.lax.dynamic_slice_in_dim(jax.lax.psum(x, axes), start, size, dimension)


def _gloo_reduces() -> bool:
    """Whether a CPU's collectives are Gloo's: they are where JAX's coordination service runs."""
    return target_platform() == "cpu" and coordination() is not None


def rows_here(numbers: jax.Array, count: int, axes: tuple[str, ...]) -> tuple[jax.Array, jax.Array | None]:
    """Returns row numbers of a table that mesh axes split, as this device's part has them, within a local function.

    Args:
      numbers: int32, of any shape: rows of the whole table.
      count: rows of a device's part.
      axes: that split the table.

    Returns:
      int32, counted from this device's first row, clipped to its rows; and which of them are its own, None: all.
    """
    if not axes:
        return numbers, None
    numbers -= jax.lax.axis_index(axes) * count
    return jnp.clip(numbers, 0, count - 1), (numbers >= 0) & (numbers < count)
