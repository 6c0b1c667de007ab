"""Looking up rows of a table, and the sum of gradients of each row, on one device or many.

On a mesh that splits the table's width over devices that also split the batch (fsdp), tokens are exchanged and the
table stays where it is: a device looks up its columns for the rows of all of its group, and an all-to-all brings each
row its columns. The gradient goes back the same way, and so is summed where it belongs: only `data` is left to reduce
over, a part of the table each. Where the table is smaller than that exchange (positions), it is gathered instead, in
the compute dtype, and its gradient scattered. Left to the compiler, a table goes round whole in float32, twice.

Shape letters: B batch, T length, R rows of the table, D width.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from transformer.parallel.local import (
    devices_along,
    divides,
    dividing_axes,
    on_parts,
    rows_here,
    scattered_sum,
    splitting_axes,
    summed_along,
)
from transformer.parallel.rules import constrain


class _Split(NamedTuple):
    """The mesh axes that split the arrays; all empty where one device computes everything."""

    batch: tuple[str, ...] = ()
    length: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    width: tuple[str, ...] = ()
    """Split the table's width, beside being among `batch`."""

    @property
    def tokens(self) -> PartitionSpec:
        return PartitionSpec(self.batch, self.length)

    @property
    def table(self) -> PartitionSpec:
        return PartitionSpec(self.rows, self.width)


def look_up(table_RD: jax.Array, ids_BT: jax.Array, dtype: Any, names: tuple[str, str]) -> jax.Array:
    """Returns the table's row for each id, [B, T, D], in `dtype`; an id outside [0, R) takes the nearest row.

    Args:
      table_RD: float32. Its gradient's sums are float32, whatever `dtype`, within devices and between them.
      ids_BT: int32.
      dtype: of the result, and of what goes between devices on the way to it.
      names: logical axis names of the table.
    """
    split = _split(table_RD.shape, ids_BT.shape, names)
    if not any(split):
        # From rows split along the width, the compiler would gather for every token of the global batch.
        return jnp.take(constrain(table_RD, names[0], None), ids_BT, axis=0, mode="clip").astype(dtype)
    return _look_up(split, jnp.dtype(dtype), table_RD.shape[0], table_RD, ids_BT)


def _split(table_shape: tuple[int, ...], ids_shape: tuple[int, ...], names: tuple[str, str]) -> _Split:
    """Returns what splits [R, D] and [B, T] on the mesh of today; nothing where it does not divide the batch."""
    batch = splitting_axes("activation_batch")
    if not divides(batch, ids_shape[0]):
        return _Split()
    rows, width = (dividing_axes(name, size) for name, size in zip(names, table_shape, strict=True))
    return _Split(batch, dividing_axes("activation_length", ids_shape[1]), rows, width)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _look_up(split: _Split, dtype: Any, num_rows: int, table_RD: jax.Array, ids_BT: jax.Array) -> jax.Array:
    local = functools.partial(_rows, split, dtype, num_rows)
    return on_parts(local, (split.table, split.tokens), PartitionSpec(split.batch, split.length, None))(
        table_RD, ids_BT
    )


def _forward(split: _Split, dtype: Any, num_rows: int, table_RD: jax.Array, ids_BT: jax.Array):
    return _look_up(split, dtype, num_rows, table_RD, ids_BT), ids_BT


def _backward(split: _Split, dtype: Any, num_rows: int, ids_BT: jax.Array, dy_BTD: jax.Array):
    local = functools.partial(_row_sums, split, dtype, num_rows)
    in_specs = split.tokens, PartitionSpec(split.batch, split.length, None)
    return on_parts(local, in_specs, split.table)(ids_BT, dy_BTD), None


_look_up.defvjp(_forward, _backward)


def _rows(split: _Split, dtype: Any, num_rows: int, table_RD: jax.Array, ids_BT: jax.Array) -> jax.Array:
    """Returns [B, T, D] of this device's tokens, from its part of the table."""
    table_RD = table_RD.astype(dtype)
    exchanged = _exchanges(split, dtype, num_rows, ids_BT.size)
    if exchanged:
        ids_BT = jax.lax.all_gather(ids_BT, split.width, axis=0, tiled=True)
    elif split.width:
        table_RD = jax.lax.all_gather(table_RD, split.width, axis=1, tiled=True)
    ids_BT, here_BT = _ids_here(split, num_rows, ids_BT)
    y_BTD = jnp.where(here_BT[..., None], jnp.take(table_RD, ids_BT, axis=0, mode="clip"), jnp.zeros((), dtype))
    if exchanged:
        y_BTD = jax.lax.all_to_all(y_BTD, split.width, split_axis=0, concat_axis=2, tiled=True)
    return summed_along(y_BTD, split.rows)  # all but one add zeros


def _row_sums(split: _Split, dtype: Any, num_rows: int, ids_BT: jax.Array, dy_BTD: jax.Array) -> jax.Array:
    """Returns this device's part of the table's gradient, from its tokens."""
    exchanged = _exchanges(split, dtype, num_rows, ids_BT.size)
    if exchanged:
        ids_BT = jax.lax.all_gather(ids_BT, split.width, axis=0, tiled=True)
        dy_BTD = jax.lax.all_to_all(dy_BTD, split.width, split_axis=2, concat_axis=0, tiled=True)
    ids_BT, here_BT = _ids_here(split, num_rows, ids_BT)
    dy_BTD = jnp.where(here_BT[..., None], dy_BTD.astype(jnp.float32), jnp.float32(0))
    sums_RD = jnp.zeros((num_rows // devices_along(split.rows), dy_BTD.shape[-1]), jnp.float32).at[ids_BT].add(dy_BTD)
    if split.width and not exchanged:
        sums_RD = scattered_sum(sums_RD, split.width, dimension=1)
    rest = tuple(axis for axis in split.batch + split.length if axis not in split.width)
    return summed_along(sums_RD, rest)


def _exchanges(split: _Split, dtype: Any, num_rows: int, tokens: int) -> bool:
    """Whether a device sends less for its tokens, there and back, than for the table and its float32 gradient."""
    there_and_back = 2 * dtype.itemsize * tokens
    return bool(split.width) and there_and_back < (dtype.itemsize + 4) * (num_rows // devices_along(split.rows))


def _ids_here(split: _Split, num_rows: int, ids_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the ids counted from this device's first row, and which of them are of its rows."""
    ids_BT = jnp.clip(ids_BT, 0, num_rows - 1)
    ids_BT, here_BT = rows_here(ids_BT, num_rows // devices_along(split.rows), split.rows)
    return ids_BT, jnp.ones(ids_BT.shape, bool) if here_BT is None else here_BT
