"""Elementwise compute: activations by name, dropout, multiplication by a constant.

An activation keeps only its input for the backward pass and computes the rest again: an activation's several
intermediate values, the widest arrays of a layer, would otherwise go to memory and back. With the same for norms and
softmax, this is a sixth of a small model's step on a CPU, and half of its memory. What is computed is float32: in
bfloat16 the constants of GELU's approximation would be off by 0.1 %.
"""

import contextvars
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp

from transformer.ops.tracing import within


def _keep_input(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    def activation(x: jax.Array) -> jax.Array:
        return function(x.astype(jnp.float32)).astype(x.dtype)

    return jax.checkpoint(activation, prevent_cse=False)  # common subexpressions only save work here


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": _keep_input(functools.partial(jax.nn.gelu, approximate=False)),  # Hendrycks and Gimpel 2016, exact: BERT
    "gelu_tanh": _keep_input(functools.partial(jax.nn.gelu, approximate=True)),  # its tanh approximation: GPT, GPT-2
    "relu": _keep_input(jax.nn.relu),
    "silu": _keep_input(jax.nn.silu),
    "quick_gelu": _keep_input(lambda x: x * jax.nn.sigmoid(1.702 * x)),  # Hendrycks and Gimpel 2016, section 2: CLIP
    "tanh": _keep_input(jnp.tanh),
}


# Which rows of the update's batch a computation holds, for what is drawn at random row by row. An update may run over
# parts of its batch: microbatches of accumulation or of a pipeline. What is drawn for a row must not depend on that, so
# a row keeps the number that it has in the whole batch. The numbers are data and go with the rows.
_ROWS: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar("rows", default=None)


def numbered(rows_B: jax.Array | None) -> AbstractContextManager[None]:
    """Numbers the rows of all that is traced within: int32 [B]; None: 0, 1, ... B - 1."""
    return within(_ROWS, rows_B)


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


def dropout(x: jax.Array, rate: float, key: jax.Array, *numbers: jax.Array, first: int = 0) -> jax.Array:
    """Returns `x` [B, ...] with elements zeroed with probability `rate`, the others scaled to keep the mean.

    Srivastava et al. 2014, in the inverted form, so that evaluation needs no rescaling. Arguments as `draw_kept`'s.
    """
    return without_dropped(x, *draw_kept(x.shape, rate, key, *numbers, first=first))


def without_dropped(x: jax.Array, kept: jax.Array | None, factor: float) -> jax.Array:
    """Returns `x` times `factor` where it is kept, and zeros; as it is where all of it is kept."""
    return x if kept is None else jnp.where(kept, scaled(x, factor), jnp.zeros((), x.dtype))


def draw_kept(
    shape: tuple[int, ...], rate: float, key: jax.Array, *numbers: jax.Array, first: int = 0
) -> tuple[jax.Array | None, float]:
    """Returns which elements dropout keeps, bool [*shape], and what it multiplies them by; None: all of them.

    Sixteen random bits decide an element. The probability is rounded to 1/65536 and the scale is that of the rounded
    one, so the mean stays exact.

    Each row draws from its own key, made of `key` and the row's number in the update's batch: microbatches and meshes
    change no mask.

    Args:
      shape: of what is dropped of, [B, ...].
      rate: the probability, at least 0 and less than 1.
      key: a random key.
      numbers: int32, one array for each axis after the first that is a part of a longer one: the numbers of its
        elements there. These draw from keys of their own, as rows do.
      first: the number of the first element of the last axis, where one axis is left.
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout rate {rate}: it must be in [0, 1)")
    dropped = round(rate * 65536)
    if dropped == 0:
        return None, 1.0
    rest = shape[1 + len(numbers) :]
    if first:
        (last,) = rest
        rest = (first + last,)  # a key's bits are numbered: these are the first of as many as anybody asks for
    fold, draw = jax.vmap(jax.random.fold_in, (None, 0)), lambda key: jax.random.bits(key, rest, jnp.uint16)
    keys = key
    for numbers_X in (row_numbers(shape[0]), *numbers):
        keys = fold(keys, numbers_X)
        fold, draw = jax.vmap(fold, (0, None)), jax.vmap(draw)
    return draw(keys)[..., first:] >= jnp.uint16(dropped), 65536 / (65536 - dropped)


def scaled(x: jax.Array, factor: float | jax.Array) -> jax.Array:
    """Returns `x` (any shape) times `factor`, in the dtype of `x`: multiplied in float32, rounded once.

    In bfloat16 the factor itself would be rounded, by up to 0.4 %, and all of `x` would be off the same way.
    """
    return (x.astype(jnp.float32) * jnp.float32(factor)).astype(x.dtype)
