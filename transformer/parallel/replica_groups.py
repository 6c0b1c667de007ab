"""Replica groups: which devices of a compiled program talk to each other in a collective, in all of XLA's notations.

    replica_groups={{0,1},{2,3}}                        listed
    replica_groups=[2,4]<=[4,2]T(1,0)                   0..7 as an array of shape [4,2], transposed, as rows of 4
    replica_groups=mesh['a'=4,'b'=2] {'a'}              along an axis of a mesh of the devices in order
    replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}    or in another order
    source_target_pairs={{0,1},{1,0}}                   a permutation

and none, or `{}` or `{{0}}` where there is one replica: all of them. One program may use them all. A notation that is
not known raises: taking it for "all devices" would be off by as many times as there are groups.
"""

import math
import re
from collections.abc import Mapping

import numpy as np

Groups = list[tuple[int, ...]]
"""Numbers of partitions; device i of the mesh, in its order, is partition i."""


def groups_of(attributes: str, partitions: int) -> Groups:
    """Returns the groups of a collective; of a permutation, its pairs of different devices.

    Args:
      attributes: what the instruction's text has after its operands.
      partitions: devices that run the program.

    Raises:
      ValueError: a notation that is not known.
    """
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
        listed = [(int(source), int(target)) for source, target in re.findall(r"(\d+),(\d+)", pairs[1])]
        return [pair for pair in listed if pair[0] != pair[1]] or [(0,)]
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", attributes):
        return _along(*mesh.groups())
    if iota := re.search(rf"replica_groups=\[([\d,]+)\]<={_IOTA}", attributes):
        return [tuple(row) for row in _iota(iota[2], iota[3]).reshape(_integers(iota[1])).tolist()]
    if "replica_groups={}" in attributes or "replica_groups" not in attributes:
        return [tuple(range(partitions))]
    if listed := re.search(r"replica_groups=\{(\{[\d,]+\}(?:, ?\{[\d,]+\})*)\}", attributes):
        groups = [tuple(_integers(group)) for group in re.findall(r"\{([\d,]+)\}", listed[1])]
        return [tuple(range(partitions))] if groups == [(0,)] else groups
    notation = attributes[attributes.index("replica_groups") :][:120]
    raise ValueError(f"replica groups in a notation that is not known: {notation}")


def axes_of(groups: Groups, mesh_shape: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the mesh axes along which the devices of a group differ, in the mesh's order."""
    sizes = tuple(mesh_shape.values())
    coordinates = [np.stack(np.unravel_index(np.asarray(group), sizes)) for group in groups]
    moving = np.any([(of_group != of_group[:, :1]).any(axis=1) for of_group in coordinates], axis=0)
    return tuple(axis for axis, moves in zip(mesh_shape, moving, strict=True) if moves)


_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"


def _iota(dims: str, order: str | None) -> np.ndarray:
    """Returns 0, 1, ... as an array of these dims, its axes in another order if given, flat."""
    ids = np.arange(math.prod(_integers(dims))).reshape(_integers(dims))
    return (ids.transpose(_integers(order)) if order else ids).reshape(-1)


def _along(mesh: str, device_ids: str | None, chosen: str) -> Groups:
    """Returns the groups along some axes of a mesh.

    Args:
      mesh: its axes, `'a'=4,'b'=2`.
      device_ids: its partitions, `[2,4]T(1,0)` or `0,2,1,3`; None: in order.
      chosen: the axes, `'a','b':(2)4`: of `b`, the part of size 4 that comes after a part of size 2.
    """
    parts = {axis: (before, size) for axis, before, size in re.findall(r"'([\w.\-]+)'(?::\((\d+)\)(\d+))?", chosen)}
    shape: list[int] = []
    along: list[int] = []
    for axis, size in re.findall(r"'([\w.\-]+)'=(\d+)", mesh):
        before, part = parts.get(axis, ("", ""))
        pieces = [int(before), int(part), int(size) // (int(before) * int(part))] if part else [int(size)]
        if axis in parts:
            along.append(len(shape) + (1 if part else 0))
        shape += pieces
    if device_ids is None:
        order = np.arange(math.prod(shape))
    elif iota := re.fullmatch(_IOTA, device_ids):
        order = _iota(iota[1], iota[2])
    else:
        order = np.array(_integers(device_ids))
    others = [place for place in range(len(shape)) if place not in along]
    rows = order.reshape(shape).transpose(others + along).reshape(-1, math.prod(shape[place] for place in along))
    return [tuple(row) for row in rows.tolist()]


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]
