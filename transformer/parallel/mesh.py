"""Mesh: how many devices split what, and today's devices laid out so."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from transformer import checks
from transformer.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor", "sequence", "pipeline", "expert")


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
    pipeline: int = 1
    """Stages of a pipeline: devices that split the layers."""
    expert: int = 1
    """Devices that split the experts of a mixture, and the batch as `data` does."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, *MESH_AXES)


def mesh_sizes(config: MeshConfig, *, data: int) -> dict[str, int]:
    """Returns mesh axis -> devices, with so many along `data` where that is not given."""
    return dataclasses.asdict(config) | {"data": data if config.data is None else config.data}


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh, on the first so many of `devices` as its axes need (all devices by default).

    Raises:
      UserError: more devices are asked for than there are.
    """
    devices = jax.devices() if devices is None else devices
    others = math.prod(mesh_sizes(config, data=1).values()) // (config.data or 1)
    sizes = mesh_sizes(config, data=max(len(devices) // others, 1))
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
    try:
        return jax.make_mesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=devices[:needed])
    except NotImplementedError as error:  # a TPU slice, whose links run along its sides
        sides = " x ".join(str(1 + max(along)) for along in zip(*(device.coords for device in devices), strict=True))
        raise UserError(
            f"the mesh {described} does not fit a slice of {sides} chips: each --mesh.* must be the product of some of "
            "its sides"
        ) from error
