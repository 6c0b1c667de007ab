"""Rates: what a device of a topology attains, published and taken in part, or measured on this machine's processor."""

import os
import time
from collections.abc import Callable

from transformer.planning.chips import Topology
from transformer.planning.timing import Rates, rates_of


def rates_for(topology: Topology, dtype: str) -> Rates:
    """Returns what one device of a topology attains; that of a processor is measured now, in under a second.

    Args:
      topology: the chips.
      dtype: of compute.
    """
    if topology.platform == "cpu":
        return measured_rates(topology.devices)
    return rates_of(topology.chip, dtype, topology.per_host)


MEMORY = 0.46
"""Share of the rate of one long copy that a step's work beside its products attains on a processor: arrays are small,
masked, exponentiated. The one number that was fitted to measured steps (docs/planning.md)."""


def measured_rates(devices: int) -> Rates:
    """Returns what one of so many devices of this machine's processor attains, which share its cores.

    Rates are per second of processor time, times the cores: what others compute meanwhile does not count.
    """
    import jax
    import jax.numpy as jnp

    side, length = 1024, 2**24
    product, copy = jax.jit(lambda x: x @ x), jax.jit(lambda x: x * 1.5 + 1.0)
    products = 2 * side**3 / _processor_seconds(product, jnp.ones((side, side), jnp.float32))
    copied = 2 * 4 * length / _processor_seconds(copy, jnp.ones((length,), jnp.float32))
    share = cores() / devices
    return Rates(
        products=products * share,
        attention=products * share,
        memory=MEMORY * copied * share,
        link=copied * share,
        network=copied * share,
        per_host=None,
        hop=0.0,
        network_hop=0.0,
    )


def cores() -> int:
    """Returns the cores that this process may compute on."""
    return len(os.sched_getaffinity(0))


def _processor_seconds(function: Callable, argument: object, rounds: int = 10) -> float:
    """Returns the seconds that all threads of this process compute for a call, the least of some."""
    function(argument).block_until_ready()
    least = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        function(argument).block_until_ready()
        least = min(least, time.process_time() - began)
    return least
