"""Orbax halted on all processes when it fails on one, so that what is half written can be removed.

Orbax has each process wait for the others at barriers of JAX's coordination service, some of them for as long as a
save may take, and it does not tell them of a failure. Its barriers are named by the operation, which the processes
count alike. A process that will not come to one can call it as a stranger: the service then fails it for all, whoever
waits there and whoever comes later.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax

from transformer.checkpoint.orbax_patches import BARRIERS, begin_operation, join_threads, next_operation
from transformer.cluster.agreement import alone, coordination, own_index

Failure = dict[str, Any]
"""What a process tells the others: its `message`, and whether it `follows` from another's failure."""

PATIENCE = 2 * 3600
"""Seconds that a process of several waits in Orbax for the others; a failure is known at once all the same."""
_STILL = 600.0
"""Seconds to wait for what Orbax began and does not wait for itself."""


def release_others(operation: int) -> None:
    """Has the other processes fail in an operation of Orbax that failed here, rather than wait for this one."""
    if alone():
        return
    if next_operation() == operation:  # it failed before Orbax began it here
        begin_operation()
    others = [(own_index() + 1) % jax.process_count()]
    for barrier in BARRIERS:
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # which is how the service answers a stranger
            coordination().wait_at_barrier(barrier.format(operation), 1000, process_ids=others)


def was_released(error: BaseException) -> bool:
    """Whether an error only tells that another process failed."""
    cause: BaseException | None = error
    while cause is not None and "CoordinationService/Barrier" not in str(cause):
        cause = cause.__cause__
    return cause is not None


def first_failure(failures: Sequence[Failure | None]) -> tuple[int, Failure] | None:
    """Returns the first process that failed by itself, and how; else one that only tells of another; else None."""
    failed = [(index, failure) for index, failure in enumerate(failures) if failure is not None]
    return min(failed, key=lambda item: item[1]["follows"], default=None)


def wait_until_still() -> None:
    """Returns once none of Orbax's threads runs: after a first failure it leaves the other writes to themselves."""
    join_threads(_STILL)
