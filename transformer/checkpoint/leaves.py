"""What arrays a checkpoint holds: paths, shapes, dtypes, bytes and the pieces on disk; no array is read."""

import dataclasses
import datetime
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from transformer.checkpoint.reading import Damaged, reading_errors
from transformer.errors import UserError
from transformer.params import flatten, modules_of

TREES = ("params", "opt_state")
"""A checkpoint's trees of arrays. One of weights alone has the first only."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An array, without its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    piece: tuple[int, ...]
    """Shape of the pieces that it is stored in (Zarr's chunks): to read a part of one is to read all of it. Of an array
    that is not stored: its own shape."""

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of all elements, before compression."""
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


Leaves = Mapping[str, Leaf]
"""Path, as `backbone/stack/layers/mlp/up/kernel` -> leaf."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where and when a checkpoint was written."""

    written: datetime.datetime | None
    """When it was complete, in UTC; None: not recorded."""
    mesh: dict[str, int]
    """Mesh axis -> devices, of the axes with more than one; empty for one device."""


def trees(checkpoint: epath.Path) -> list[str]:
    """Returns which of `TREES` a checkpoint holds."""
    return [name for name in TREES if (checkpoint / name).exists()]


def stored(checkpoint: epath.Path, tree: str) -> Leaves:
    """Returns the leaves of one of a checkpoint's trees.

    Raises:
      UserError: the tree is not there, or what describes it is damaged.
    """
    return {
        path: Leaf(tuple(leaf.shape), np.dtype(leaf.dtype), tuple(leaf.storage_metadata.chunk_shape))
        for path, leaf in flatten(structure(checkpoint, tree).metadata).items()
    }


def origin(checkpoint: epath.Path) -> Origin:
    """Returns where and when a checkpoint was written."""
    saved = structure(checkpoint, "params")
    written, mesh = saved.commit_timestamp_nsecs, {}
    for leaf in jax.tree.leaves(saved.metadata):
        sharding = leaf.sharding_metadata
        if hasattr(sharding, "axis_names"):  # of a named sharding, not of a single device
            mesh = {axis: int(n) for axis, n in zip(sharding.axis_names, sharding.shape, strict=True) if n > 1}
            break
    return Origin(None if written is None else datetime.datetime.fromtimestamp(written / 1e9, datetime.UTC), mesh)


def structure(checkpoint: epath.Path, tree: str) -> Any:
    """Returns Orbax's metadata of one of a checkpoint's trees: `.metadata` is the tree, with metadata for leaves."""
    from orbax.checkpoint import v1 as ocp

    if not (checkpoint / tree).exists():
        if tree == "opt_state" and (checkpoint / "params").exists():
            raise UserError(f"{checkpoint} holds weights alone, no optimizer state: a run can start from it, not go on")
        raise UserError(f"{checkpoint} has no {tree}/: the checkpoint is incomplete")
    with reading_errors(checkpoint):
        saved = ocp.metadata(checkpoint, tree)
    if not jax.tree.leaves(saved.metadata):  # Orbax logs that it could not read it, and goes on
        raise Damaged(f"{checkpoint}: damaged: {tree}/ does not say which arrays it holds")
    return saved


def wanted(abstract: Any) -> Leaves:
    """Returns the leaves of a tree of ShapeDtypeStructs."""
    return {
        path: Leaf(tuple(leaf.shape), np.dtype(leaf.dtype), tuple(leaf.shape))
        for path, leaf in flatten(abstract).items()
    }


def total_bytes(leaves: Leaves) -> int:
    """Returns the bytes of all leaves."""
    return sum(leaf.bytes for leaf in leaves.values())


def modules(leaves: Leaves, depth: int = 4) -> dict[str, int]:
    """Returns module -> its parameters; modules below `depth` names are counted with the one that holds them."""
    counts: dict[str, int] = {}
    for path, leaf in leaves.items():
        module = ["", *modules_of(path)][: depth + 1][-1]
        counts[module] = counts.get(module, 0) + leaf.size
    return counts
