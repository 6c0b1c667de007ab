"""Mesh: how many devices split what, and today's devices laid out so."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from transformer import checks
from transformer.errors import UserError

MESH_AXES: tuple[str, ...] = ("data", "pipeline", "fsdp", "expert", "sequence", "tensor")
"""From the outermost to the innermost. Devices that are neighbours, with the fastest links between them, lie along the
last: tensor parallelism sends the most, several times a layer, and `data` once a step."""
REST = -1
"""The size of an axis that takes all the devices that the others leave."""
_SPANNING: tuple[str, ...] = ("data", "pipeline", "fsdp")
"""Axes that may span nodes, from the first to do so. The others send within each layer and stay inside a node."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis has. Their product is the number of devices used.

    One axis may be -1: all the devices that the others leave.
    """

    data: int | None = None
    """Devices that hold copies of the model and split the batch; by default all that the other axes leave, or 1 where
    one of these is -1."""
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
    nodes: int = 1
    """Nodes (hosts, or slices of TPUs) that slower links connect: `data`, `pipeline` and then `fsdp` span them, and
    each other axis stays inside one. 1: devices are laid out in JAX's order, and slices of TPUs are nodes."""
    zero1: bool = False
    """Whether devices along `data` split the optimizer's moments, while parameters stay whole on each (ZeRO-1)."""

    def __post_init__(self) -> None:
        for axis in MESH_AXES:
            size = getattr(self, axis)
            allowed = size is None or size == REST or size >= 1
            checks.rule(self, axis, allowed, "it must be at least 1, or -1 for all the devices that the others leave")
        resting = [axis for axis in MESH_AXES if getattr(self, axis) == REST]
        told = " and ".join(f"`{axis}`" for axis in resting)
        checks.require(self, len(resting) < 2, f"{told} are -1: one axis alone takes the devices that the others leave")
        checks.at_least(self, 1, "nodes")


def mesh_sizes(config: MeshConfig, *, devices: int | None = None) -> dict[str, int]:
    """Returns mesh axis -> devices, in the order of `MESH_AXES`.

    Args:
      config: the mesh.
      devices: how many there are; None: nobody knows, and `data`, where it is not given, is 1.

    Raises:
      UserError: the devices that an axis is to take are no whole number, or unknown.
    """
    sizes = {axis: getattr(config, axis) for axis in MESH_AXES}
    resting = next((axis for axis, size in sizes.items() if size == REST), None)
    if resting is None and config.data is None and devices is not None:
        resting = "data"
    sizes["data"] = 1 if sizes["data"] is None else sizes["data"]
    if resting is None:
        return sizes
    if devices is None:
        raise UserError(f"--mesh.{resting} -1 takes the devices that are left, and here there are none: give a number")
    others = math.prod(size for axis, size in sizes.items() if axis != resting)
    if devices > others and devices % others:
        raise UserError(
            f"--mesh.{resting} takes the devices that the others leave, and {described(sizes | {resting: 1})} does not "
            f"divide {devices} devices: change one of them, or give --mesh.{resting} a number"
        )
    return sizes | {resting: max(devices // others, 1)}


def least_devices(config: MeshConfig) -> int:
    """Returns how many devices the mesh needs at least: an axis that takes the rest may have one."""
    return math.prod(max(getattr(config, axis) or 1, 1) for axis in MESH_AXES)


def described(sizes: Mapping[str, int]) -> str:
    """Returns a mesh in words, without the axes of one device: `data 2 x tensor 4`."""
    return " x ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "data 1"


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """Returns the mesh, on the first so many of `devices` as its axes need (all devices by default).

    Raises:
      UserError: more devices are asked for than there are, or they are no whole number, or the nodes do not fit.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(config, devices=len(devices))
    needed = math.prod(sizes.values())
    if needed > len(devices):
        raise UserError(
            f"the mesh {described(sizes)} needs {needed} devices and there are {len(devices)} ({devices[0].platform}): "
            "lower --mesh.* (JAX_NUM_CPU_DEVICES=8 gives eight fake devices on a CPU)"
        )
    if needed < len(devices) and jax.process_count() > 1:
        raise UserError(
            f"the mesh {described(sizes)} uses {needed} of {len(devices)} devices: over several hosts it must use all"
        )
    used, shape, types = devices[:needed], tuple(sizes.values()), (AxisType.Auto,) * len(MESH_AXES)
    try:
        if config.nodes == 1 and len({_slice(device) for device in used}) == 1:
            return jax.make_mesh(shape, MESH_AXES, axis_types=types, devices=used)
        return Mesh(over_nodes(sizes, used, config.nodes), MESH_AXES, axis_types=types)
    except NotImplementedError as error:  # a TPU slice, whose links run along its sides
        sides = " x ".join(str(1 + max(along)) for along in zip(*(device.coords for device in used), strict=True))
        raise UserError(
            f"the mesh {described(sizes)} does not fit a slice of {sides} chips: each --mesh.* must be the product of "
            "some of its sides"
        ) from error


def over_nodes(sizes: Mapping[str, int], devices: Sequence[Any], nodes: int) -> np.ndarray:
    """Returns the devices as a mesh has them, each node's part laid out by itself.

    JAX's `create_hybrid_device_mesh` does so for nodes that are slices or processes; here a node may also hold several
    processes (one a device), or be a part of one process's devices.

    Args:
      sizes: of the mesh's axes, in its order; all devices are used.
      devices: with JAX's attributes.
      nodes: how many there are; 1: the devices are those of several slices, which are the nodes.

    Raises:
      UserError: the axes that may span nodes do not make so many, or a node would hold a part of a process or slice.
    """
    given, slices = nodes > 1, len({_slice(device) for device in devices})
    ordered = sorted(devices, key=lambda device: (_slice(device), device.process_index, device.id))
    nodes = nodes if given else slices
    across = _across(sizes, nodes)
    if across is None:
        if not given and devices[0].platform != "tpu":  # GPUs need no layout, so no axis need stay inside a node
            return np.array(ordered, dtype=object).reshape(tuple(sizes.values()))
        raise UserError(
            f"the mesh {described(sizes)} does not spread over {nodes} {'nodes' if given else 'slices'}: "
            f"{' x '.join(_SPANNING)} = {math.prod(sizes[axis] for axis in _SPANNING)} is to be divided by them "
            "(--mesh.nodes), as tensor, sequence and expert stay inside a node"
        )
    processes = len({device.process_index for device in devices})
    if slices not in (1, nodes) or (processes > 1 and processes % nodes):
        parts = f"{processes} processes" if slices in (1, nodes) else f"{slices} slices"
        raise UserError(f"--mesh.nodes {nodes}: the devices are those of {parts}, and each node is to hold whole ones")
    share, inside = len(devices) // nodes, [size // across[axis] for axis, size in sizes.items()]
    blocks = [
        mesh_utils.create_device_mesh(
            inside, ordered[node * share : (node + 1) * share], allow_split_physical_axes=True
        )
        for node in range(nodes)
    ]
    # Along each axis, what a node has lies together: axes [across, ..., inside, ...] become [across, inside], ...
    apart = np.array(blocks, dtype=object).reshape(*across.values(), *inside)
    pairs = [axis for pair in range(len(sizes)) for axis in (pair, pair + len(sizes))]
    return apart.transpose(pairs).reshape(tuple(sizes.values()))


def _across(sizes: Mapping[str, int], nodes: int) -> dict[str, int] | None:
    """Returns mesh axis -> how many nodes it spans; None where the axes that may span nodes do not make so many."""
    across = dict.fromkeys(sizes, 1)
    for axis in _SPANNING:
        across[axis] = math.gcd(sizes[axis], nodes)
        nodes //= across[axis]
    return across if nodes == 1 else None


def _slice(device: Any) -> int:
    return getattr(device, "slice_index", 0) or 0
