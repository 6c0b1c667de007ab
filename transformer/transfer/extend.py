"""Longer tables: rows for tokens and positions that the weights do not know, made by a named rule.

Shape letters: R rows of the old table, M rows of the longer one.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from transformer.ops.resize import resized_grid

VocabularyRule = Literal["fresh", "mean"]
"""fresh: newly initialised rows. mean: each is the mean of the old rows (Hewitt 2021, "Initializing New Word Embeddings
for Pretrained Language Models"), so that no old token's probability falls below R / M of what it was."""

PositionRule = Literal["fresh", "repeat", "interpolate"]
"""fresh: newly initialised rows. repeat: the old rows over and over (Beltagy et al. 2020, Longformer, section 5).
interpolate: all rows anew, linearly between the old ones, of which the first and the last stay at the ends (Dosovitskiy
et al. 2020, ViT, section 3.2; its released code: `scipy.ndimage.zoom` of order 1). The places of an image's patches are
a grid, which is interpolated in both directions (`ops.resize`), and by no other rule."""


@dataclasses.dataclass(frozen=True)
class Extension:
    """How one array becomes longer."""

    name: Literal["vocab", "positions", "grid"]
    """Name of the axis that grows; a grid of an image's patches may shrink too."""
    axis: int
    """The axis's number."""
    rule: VocabularyRule | PositionRule
    """How its new rows are made."""
    first: int = 0
    """Rows before the first position's: they stay as they are."""


def extend(old: jax.Array, fresh: jax.Array, how: Extension) -> jax.Array:
    """Returns the longer array.

    Args:
      old: R rows along the axis.
      fresh: newly initialised, of the shape and dtype that are wanted: M > R rows.
      how: which axis, by which rule.
    """
    rows, wanted = old.shape[how.axis], fresh.shape[how.axis]
    if how.rule == "fresh":
        added = jax.lax.slice_in_dim(fresh, rows, wanted, axis=how.axis)
        return jnp.concatenate([old, added], axis=how.axis)
    if how.rule == "mean":
        added = jnp.repeat(jnp.mean(old, axis=how.axis, keepdims=True), wanted - rows, axis=how.axis)
        return jnp.concatenate([old, added], axis=how.axis)
    if how.name == "grid":
        return _resized(old, wanted, how.first)
    before = jax.lax.slice_in_dim(old, 0, how.first, axis=how.axis)
    positions = jax.lax.slice_in_dim(old, how.first, rows, axis=how.axis)
    stretch = _repeated if how.rule == "repeat" else _interpolated
    return jnp.concatenate([before, stretch(positions, how.axis, wanted - how.first)], axis=how.axis)


def _resized(table: jax.Array, wanted: int, first: int) -> jax.Array:
    """Returns a table of a square grid's positions, [wanted, D], for another square grid."""
    old, new = math.isqrt(table.shape[0] - first), math.isqrt(wanted - first)
    grid = resized_grid(table[first:].reshape(old, old, -1), new, new)
    return jnp.concatenate([table[:first], grid.reshape(wanted - first, -1)])


def _repeated(positions: jax.Array, axis: int, count: int) -> jax.Array:
    return jnp.take(positions, np.arange(count) % positions.shape[axis], axis=axis)


def _interpolated(positions: jax.Array, axis: int, count: int) -> jax.Array:
    last = positions.shape[axis] - 1
    places = np.linspace(0, last, count)
    below = np.minimum(places.astype(np.int32), max(last - 1, 0))
    shape = [count if i == axis else 1 for i in range(positions.ndim)]
    share = jnp.asarray((places - below).reshape(shape), positions.dtype)
    above = np.minimum(below + 1, last)
    return (1 - share) * jnp.take(positions, below, axis=axis) + share * jnp.take(positions, above, axis=axis)
