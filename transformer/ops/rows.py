"""Row numbers: which rows of the update's batch a computation holds, for what is drawn at random row by row.

An update may run over parts of its batch: microbatches of accumulation or of a pipeline. What is drawn for a row must
not depend on that, so a row keeps the number that it has in the whole batch. The numbers are data and go with the rows.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp

_ROWS: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("rows", default=None)


@contextlib.contextmanager
def numbered(rows_B: jax.Array | None) -> Iterator[None]:
    """Numbers the rows of all that is traced within: int32 [B]; None: 0, 1, ... B - 1."""
    token = _ROWS.set(rows_B)
    try:
        yield
    finally:
        _ROWS.reset(token)


def row_numbers(count: int) -> jax.Array:
    """Returns the numbers of the `count` rows at hand, int32 [count].

    Raises:
      ValueError: another count of rows was numbered: an array whose first axis is no batch.
    """
    rows_B = _ROWS.get()
    if rows_B is None:
        return jnp.arange(count, dtype=jnp.int32)
    if rows_B.shape != (count,):
        raise ValueError(f"an array of {count} rows, where {rows_B.shape[0]} rows are numbered")
    return rows_B
