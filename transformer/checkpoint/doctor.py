"""Whether a checkpoint restores into an architecture on a mesh, and what it takes there; no array is read or made.

The mesh is abstract: it may be larger than this machine.
"""

import dataclasses
import difflib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from transformer.checkpoint.compare import differing_fields
from transformer.checkpoint.describe import in_bytes, product
from transformer.checkpoint.leaves import Leaf, Leaves, stored, total_bytes, trees, wanted
from transformer.checkpoint.reading import check, read_architecture
from transformer.errors import UserError
from transformer.models import Architecture, architecture_to_dict
from transformer.models.architecture import undivided_lengths
from transformer.parallel.mesh import MESH_AXES, MeshConfig, mesh_sizes
from transformer.parallel.rules import resolve

_NEAR = 0.6
"""How alike two paths must be to be offered for each other: difflib's ratio."""

Box = tuple[tuple[int, int], ...]
"""A part of an array: (start, stop) of each dimension."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Bytes of arrays on a mesh."""

    total: int
    """Bytes of all arrays, each counted once."""
    device: int
    """In the memory of one device."""
    host: int
    """In the memory of all devices of one host."""
    read: int
    """Read from the disk by the host that reads most, before compression: all pieces that its devices have a part of,
    each once."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, field.name) + getattr(other, field.name) for field in dataclasses.fields(Cost)))


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Whether a checkpoint restores."""

    lines: list[str]
    """Everything, for people."""
    problems: list[str]
    """What keeps it from being restored, a line each; none: it restores."""


def diagnose(
    checkpoint: epath.Path,
    architecture: Architecture,
    mesh: AbstractMesh,
    aim: Callable[[AbstractMesh], Mapping[str, Any]],
    *,
    needed: Sequence[str],
    devices_per_host: int,
) -> Diagnosis:
    """Returns whether a checkpoint restores into an architecture on a mesh, and what it takes there.

    Args:
      checkpoint: `CHECKPOINTS/STEP`.
      architecture: what is to be restored.
      mesh: where.
      aim: a mesh -> tree (`params`, `opt_state`) -> its ShapeDtypeStructs with shardings on the mesh: what it takes.
      needed: the trees that must be there.
      devices_per_host: hosts have so many, consecutive in the mesh's row-major order.

    Raises:
      UserError: the checkpoint is damaged, or the hosts do not divide the mesh.
    """
    check(checkpoint)
    own = architecture_to_dict(read_architecture(checkpoint))
    changed = differing_fields(own, architecture_to_dict(architecture))
    words = "; ".join(f"{name} {theirs!r} in place of {ours!r}" for name, (ours, theirs) in changed.items())
    lines = [
        f"checkpoint  {checkpoint}",
        f"model       {architecture.family}, {architecture.num_params():,} parameters{words and '; '}{words}",
        f"mesh        {product(mesh.shape)}; {devices_per_host} a host",
    ]
    undivided_lines = undivided(architecture, mesh)
    abstract = aim(abstract_mesh(MeshConfig()) if undivided_lines else mesh)
    have = {name: stored(checkpoint, name) if name in trees(checkpoint) else {} for name in abstract}
    lengths = undivided_lengths(architecture, mesh.shape["sequence"])
    problems = [*undivided_lines, *(f"mesh        {line}" for line in lengths)]
    faulty: set[str] = set()
    for name in needed:
        need = wanted(abstract[name])
        lines.append(f"{name:12}{len(have[name])} arrays in the checkpoint, {len(need)} needed")
        found = mismatches(have[name], need)
        # An optimizer's path for a parameter ends in the parameter's, and is as wrong: that is said once.
        first = {path: line for path, line in found.items() if not any(path.endswith(f"/{end}") for end in faulty)}
        problems += first.values()
        if len(found) > len(first):
            lines[-1] += f"; {len(found) - len(first)} of them are as wrong as their parameters"
        faulty |= found.keys()
    if not undivided_lines:
        lines += _table({name: cost(have[name], tree, devices_per_host) for name, tree in abstract.items()})
    verdict = f"does not restore: {len(problems)} problems" if problems else "restores"
    return Diagnosis([*lines, *problems, verdict], problems)


def abstract_mesh(config: MeshConfig) -> AbstractMesh:
    """Returns a mesh without devices; `data`, where it is not given, is 1.

    Raises:
      UserError: an axis is -1: there are no devices that could be left for it.
    """
    sizes = mesh_sizes(config)
    return AbstractMesh(
        tuple(sizes[axis] for axis in MESH_AXES), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES)
    )


def mismatches(have: Leaves, need: Leaves) -> dict[str, str]:
    """Returns path -> what keeps a stored array from being restored, in a line; none if nothing does.

    Another dtype does not: it is converted. Beside what is missing stands the nearest name of what is unexpected, and
    the other way round: it may be the same array under another name.
    """
    missing = {path: leaf for path, leaf in need.items() if path not in have}
    unexpected = {path: leaf for path, leaf in have.items() if path not in need}
    lines = {
        path: f"shape       {path}: {list(have[path].shape)} in the checkpoint, {list(leaf.shape)} needed"
        for path, leaf in need.items()
        if path in have and have[path].shape != leaf.shape
    }
    for path, leaf in missing.items():
        lines[path] = f"missing     {path}: {leaf} needed{_nearest(path, leaf, unexpected)}"
    for path, leaf in unexpected.items():
        lines[path] = f"unexpected  {path}: {leaf} in the checkpoint{_nearest(path, leaf, missing)}"
    return lines


def undivided(architecture: Architecture, mesh: AbstractMesh) -> list[str]:
    """Returns the parameters with a dimension that the mesh does not divide, a line each."""
    lines = []
    for path, parameter in architecture.parameters.items():
        try:
            resolve(parameter.names, parameter.shape, mesh.shape, what=path)
        except UserError as error:
            lines.append(f"mesh        {error}")
    return lines


def cost(have: Leaves, abstract: Any, devices_per_host: int) -> Cost:
    """Returns what arrays take on the mesh of their shardings, and what restoring them reads.

    Args:
      have: the stored arrays, by path; what is not stored is not read.
      abstract: the tree of ShapeDtypeStructs, with NamedShardings on one mesh.
      devices_per_host: hosts have so many, consecutive in the mesh's row-major order.

    Raises:
      UserError: the hosts do not divide the mesh.
    """
    need = wanted(abstract)
    shardings = [leaf.sharding for leaf in jax.tree.leaves(abstract)]
    mesh = shardings[0].mesh
    if devices_per_host < 1 or mesh.size % devices_per_host:
        raise UserError(
            f"the mesh's {mesh.size} devices are no whole number of hosts with {devices_per_host} each: give "
            "--devices-per-host"
        )
    device, reads = 0, np.zeros(mesh.size // devices_per_host, np.int64)
    for (path, leaf), sharding in zip(need.items(), shardings, strict=True):
        device += math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        if path in have and have[path].shape == leaf.shape:
            reads += _reads(have[path], sharding.spec, mesh.shape, devices_per_host)
    return Cost(total_bytes(need), device, device * devices_per_host, int(reads.max()))


def _table(costs: Mapping[str, Cost]) -> list[str]:
    rows = {"weights": costs["params"]}
    if "opt_state" in costs:
        rows["and optimizer state"] = costs["params"] + costs["opt_state"]
    lines = [f"{'bytes':20}{'in all':>10}{'a device':>12}{'a host':>12}{'a host reads':>15}"]
    for name, one in rows.items():
        numbers = (in_bytes(number) for number in (one.total, one.device, one.host, one.read))
        lines.append("{:20}{:>10}{:>12}{:>12}{:>15}".format(name, *numbers))
    return ["", *lines, "(gradients and activations come on top)", ""]


def _reads(leaf: Leaf, spec: PartitionSpec, mesh: Mapping[str, int], devices_per_host: int) -> np.ndarray:
    """Returns int64[hosts]: the bytes of one array that each reads."""
    sizes = list(mesh.values())
    found: dict[frozenset[Box], int] = {}
    result = []
    for host in range(math.prod(sizes) // devices_per_host):
        devices = range(host * devices_per_host, (host + 1) * devices_per_host)
        places = (map(int, np.unravel_index(device, sizes)) for device in devices)
        boxes = frozenset(_box(leaf.shape, spec, dict(zip(mesh, place, strict=True)), mesh) for place in places)
        if boxes not in found:
            found[boxes] = _touched(leaf, boxes)
        result.append(found[boxes])
    return np.array(result, np.int64)


def _box(shape: Sequence[int], spec: PartitionSpec, place: Mapping[str, int], mesh: Mapping[str, int]) -> Box:
    """Returns the part of an array that the device at `place` (mesh axis -> index) has."""
    box = []
    for size, entry in itertools.zip_longest(shape, spec):
        axes = () if entry is None else entry if isinstance(entry, tuple) else (entry,)
        parts, part = 1, 0
        for axis in axes:
            parts, part = parts * mesh[axis], part * mesh[axis] + place[axis]
        box.append((part * size // parts, (part + 1) * size // parts))
    return tuple(box)


def _touched(leaf: Leaf, boxes: frozenset[Box]) -> int:
    """Returns the bytes of all pieces that a box has a part of."""
    lengths = [
        np.minimum(piece, size - piece * np.arange(-(-size // piece)))
        for size, piece in zip(leaf.shape, leaf.piece, strict=True)
    ]
    elements = np.ones((), np.int64)
    for length in lengths:
        elements = elements[..., None] * length
    touched = np.zeros(elements.shape, bool)
    for box in boxes:
        touched[tuple(slice(a // p, -(-b // p)) for (a, b), p in zip(box, leaf.piece, strict=True))] = True
    return int(elements[touched].sum()) * leaf.dtype.itemsize


def _nearest(path: str, leaf: Leaf, among: Leaves) -> str:
    """Those of the same shape come first: a name may have changed, a shape has not."""
    alike = [name for name, other in among.items() if other.shape == leaf.shape]
    near = next((found for names in (alike, among) if (found := difflib.get_close_matches(path, names, 1, _NEAR))), [])
    return f"; the nearest name: {near[0]}, {among[near[0]]}" if near else ""
