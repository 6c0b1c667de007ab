"""Products of sorted rows with a matrix a group: what a mixture of experts computes.

Accelerators have `jax.lax.ragged_dot` for it. XLA:CPU multiplies every row with every group's matrix there and keeps
the one that counts, so on a CPU a loop goes over blocks of rows of one group instead. Which of both is compiled is
asked of the platform that a program is lowered for.

Shape letters: R rows, E groups (experts), D and F widths, C rows of a block.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_BLOCK = 64
"""Rows that the loop of a CPU takes at a time; the last ones of a group may be fewer, and cost as much."""

_ROWS_OUTER = jax.lax.RaggedDotDimensionNumbers(
    dot_dimension_numbers=(((0,), (0,)), ((), ())), lhs_ragged_dimensions=[0], rhs_group_dimensions=[]
)


class Matrices(NamedTuple):
    """A matrix of every group, and what may stand beside it: rows x of a group become gain * (x W) + (x A) B."""

    kernel_EDF: Any
    """float32; in a narrower dtype, or with factors beside it, it is frozen: it has no gradient."""
    gain_EF: Any = None
    """float32; None: 1."""
    a_EDR: Any = None
    """float32 [E, D, rank]; None: there are no factors."""
    b_ERF: Any = None
    """float32 [E, rank, F]."""

    @property
    def is_trained(self) -> bool:
        """Whether the matrices alone are multiplied, and have a gradient."""
        return self.a_EDR is None and self.gain_EF is None and self.kernel_EDF.dtype.itemsize >= 4


def sum_dtype(x: jax.Array) -> Any:
    """Returns the dtype in which such numbers are added up: float32, or theirs if it is wider."""
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32


def grouped_dot(x_RD: jax.Array, kernel_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """Returns [R, F]: each row times its group's matrix. Not differentiated: `grouped_outer` makes the gradient.

    Args:
      x_RD: rows, those of a group together, groups in order; what lies behind the last group gives zeros.
      kernel_EDF: a matrix a group, in the rows' dtype.
      sizes_E: int32: rows of each group.
    """
    y_RF = jax.lax.platform_dependent(x_RD, kernel_EDF, sizes_E, cpu=_dot_by_blocks, default=jax.lax.ragged_dot)
    return _within(y_RF, sizes_E)


def grouped_outer(x_RD: jax.Array, y_RF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """Returns [E, D, F], summed in float32 at least: each group's rows' outer products, its matrix' gradient."""
    x_RD, y_RF = _within(x_RD, sizes_E), _within(y_RF, sizes_E)
    return jax.lax.platform_dependent(x_RD, y_RF, sizes_E, cpu=_outer_by_blocks, default=_ragged_outer)


def _within(x_RD: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """Returns the rows, zeros where they belong to no group: `ragged_dot` promises nothing of those."""
    row_R = jnp.arange(x_RD.shape[0], dtype=jnp.int32)
    return jnp.where((row_R < sizes_E.sum())[:, None], x_RD, jnp.zeros((), x_RD.dtype))


def _ragged_outer(x_RD: jax.Array, y_RF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    return jax.lax.ragged_dot_general(x_RD, y_RF, sizes_E, _ROWS_OUTER, preferred_element_type=sum_dtype(x_RD))


def _dot_by_blocks(x_RD: jax.Array, kernel_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    (rows, width), out_width = x_RD.shape, kernel_EDF.shape[2]
    x_RD = jnp.pad(x_RD, ((0, _BLOCK), (0, 0)))

    def block(index: jax.Array, y_RF: jax.Array) -> jax.Array:
        group, start, _ = _block(index, sizes_E)
        x_CD = jax.lax.dynamic_slice(x_RD, (start, jnp.int32(0)), (_BLOCK, width))
        # A block's end may reach into the next group, whose own block then writes over it.
        return jax.lax.dynamic_update_slice(y_RF, x_CD @ kernel_EDF[group], (start, jnp.int32(0)))

    y_RF = jnp.zeros((rows + _BLOCK, out_width), x_RD.dtype)
    return jax.lax.fori_loop(jnp.int32(0), _blocks(sizes_E).sum(dtype=jnp.int32), block, y_RF)[:rows]


def _outer_by_blocks(x_RD: jax.Array, y_RF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    widths, dtype = (x_RD.shape[1], y_RF.shape[1]), sum_dtype(x_RD)
    x_RD, y_RF = (jnp.pad(array, ((0, _BLOCK), (0, 0))) for array in (x_RD, y_RF))

    def block(index: jax.Array, sums_EDF: jax.Array) -> jax.Array:
        group, start, end = _block(index, sizes_E)
        x_CD, y_CF = (
            jax.lax.dynamic_slice(array, (start, jnp.int32(0)), (_BLOCK, array.shape[1])) for array in (x_RD, y_RF)
        )
        inside_C = start + jnp.arange(_BLOCK, dtype=jnp.int32) < end
        x_CD = jnp.where(inside_C[:, None], x_CD, jnp.zeros((), x_CD.dtype))
        return sums_EDF.at[group].add(jnp.einsum("CD,CF->DF", x_CD, y_CF, preferred_element_type=dtype))

    sums_EDF = jnp.zeros((sizes_E.shape[0], *widths), dtype)
    return jax.lax.fori_loop(jnp.int32(0), _blocks(sizes_E).sum(dtype=jnp.int32), block, sums_EDF)


def _blocks(sizes_E: jax.Array) -> jax.Array:
    """Returns int32 [E]: blocks of each group."""
    return (sizes_E + (_BLOCK - 1)) // _BLOCK


def _block(index: jax.Array, sizes_E: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a block's group, its first row, and the end of its group's rows; int32 scalars."""
    ends_E, blocks_E = jnp.cumsum(sizes_E, dtype=jnp.int32), _blocks(sizes_E)
    last_E = jnp.cumsum(blocks_E, dtype=jnp.int32)
    group = jnp.sum(last_E <= index, dtype=jnp.int32)
    within = index - (last_E[group] - blocks_E[group])
    return group, ends_E[group] - sizes_E[group] + within * _BLOCK, ends_E[group]
