"""Arrays of a checkpoint, a few at a time: what is compared, averaged or cast need not fit into memory whole."""

from collections.abc import Collection, Iterator

import jax
import numpy as np
from etils import epath
from jax.sharding import SingleDeviceSharding

from transformer.checkpoint.digest import differing
from transformer.checkpoint.leaves import Leaves, structure
from transformer.checkpoint.reading import Damaged, digests, reading_errors
from transformer.params import flatten

GROUP_BYTES = 2**27
"""Arrays are read together up to here; a larger one by itself."""


def leaf_groups(leaves: Leaves, limit: int = GROUP_BYTES) -> Iterator[list[str]]:
    """Returns the leaves' paths in order, cut so that the leaves of a group have at most `limit` bytes, or are one."""
    group: list[str] = []
    held = 0
    for path, leaf in leaves.items():
        if group and held + leaf.bytes > limit:
            yield group
            group, held = [], 0
        group.append(path)
        held += leaf.bytes
    if group:
        yield group


def read_leaves(checkpoint: epath.Path, tree: str, paths: Collection[str]) -> dict[str, np.ndarray]:
    """Returns some leaves of one of a checkpoint's trees, as saved; reads no others.

    Raises:
      Damaged: they cannot be read, or are not what was saved.
    """
    from orbax.checkpoint import v1 as ocp

    host = SingleDeviceSharding(jax.local_devices(backend="cpu")[0])

    saved = structure(checkpoint, tree).metadata
    aims = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host) if path in paths else ocp.PLACEHOLDER
        for path, leaf in flatten(saved).items()
    ]
    abstract = jax.tree.unflatten(jax.tree.structure(saved), aims)
    with reading_errors(checkpoint):
        restored = flatten(ocp.load_checkpointables(checkpoint, {tree: abstract})[tree])
    arrays = {path: restored[path] for path in paths}
    if wrong := differing(arrays, digests(checkpoint).get(tree, {})):
        raise Damaged(f"{checkpoint}: damaged: the values of {tree}/{wrong[0]} are not those that were saved")
    return {path: np.asarray(array) for path, array in arrays.items()}
