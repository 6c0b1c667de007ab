"""Copies: the devices along `data`, each of which holds the parameters and takes rows of its own."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from transformer.parallel.local import splitting_axes


def summed_over_copies(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `function(params, batch, *others)`, whose results are sums over the batch, reduced over `data` once.

    Each copy of the model sums over its own rows, and the sums are added at the end, however many there are on the way
    (microbatches). The other mesh axes are left to the compiler: what is split over `fsdp` has no room for a copy's
    whole sums, and is reduced over `fsdp` as it comes. Without copies it is the function itself.
    """
    axes = tuple(axis for axis in ("data",) if axis in splitting_axes("activation_batch"))
    if not axes:
        return function

    def of_a_copy(params: Any, batch: Any, others: tuple[Any, ...]) -> Any:
        return jax.lax.psum(function(params, batch, *others), axes)

    everywhere = PartitionSpec()
    sharded = jax.shard_map(
        of_a_copy,
        in_specs=(everywhere, PartitionSpec(axes), everywhere),
        out_specs=everywhere,
        axis_names=set(axes),
        check_vma=False,
    )
    return lambda params, batch, *others: sharded(params, batch, others)
