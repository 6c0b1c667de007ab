"""Accumulation: sums over a batch, computed a microbatch after another."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from transformer.parallel.copies import summed_over_copies
from transformer.training.state import Batch


def with_row_numbers(batch: Batch) -> Batch:
    """Returns the batch with `rows`, int32 [B]: dropout draws by a row's number in the whole batch."""
    return dict(batch) | {"rows": jnp.arange(jax.tree.leaves(batch)[0].shape[0], dtype=jnp.int32)}


def added_up(function: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """Returns `function(params, batch, *others)`, whose results are sums over the batch, computed in so many parts.

    Devices add up their own microbatches, and what devices along `data` have is reduced once, at the end.
    """

    def accumulated(params: Any, batch: Batch, *others: Any) -> Any:
        # Row r goes to microbatch r mod A: each keeps rows of every device, so none is idle and nothing moves.
        micro = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), batch)

        def body(total: Any, rows: Batch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, function(params, rows, *others)), None

        shapes = jax.eval_shape(function, params, jax.tree.map(lambda x: x[0], micro), *others)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(body, zeros, micro)[0]

    return lambda params, batch, *others: summed_over_copies(accumulated)(params, batch, *others)
