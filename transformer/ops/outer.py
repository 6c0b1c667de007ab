"""The gradient of a matrix: outer products of rows, summed, in the order that the device computes fastest."""

import math

import jax
import jax.numpy as jnp

from transformer.parallel.local import target_platform


def summed_outer(x: jax.Array, y: jax.Array, num_rows: int) -> jax.Array:
    """Returns float32 [*inputs, *outputs]: the sum over rows of each row of `x` times that of `y`.

    On a CPU a product that sums over the rows of both copies the first one, transposed, with whatever elementwise
    computation led to it, and strided so that it takes five times as long as the product. So the narrower one goes
    first: of the hidden values of an MLP four times as wide as the model, and of the scores of a vocabulary, this is
    the other one. A quarter of a small GPT's step was this copy.

    Args:
      x: [*rows, *inputs].
      y: [*rows, *outputs], in the dtype of `x`.
      num_rows: dimensions that are summed over, the first of both.
    """
    rows = tuple(range(num_rows))
    wide = math.prod(x.shape[num_rows:]) > math.prod(y.shape[num_rows:])
    # In float32 alone: some such products of bfloat16 are not implemented there.
    turned = wide and x.dtype == jnp.float32 and target_platform() == "cpu"
    first, second = (y, x) if turned else (x, y)
    total = jax.lax.dot_general(first, second, ((rows, rows), ((), ())), preferred_element_type=jnp.float32)
    if not turned:
        return total
    outputs = y.ndim - num_rows
    return total.transpose((*range(outputs, total.ndim), *range(outputs)))
