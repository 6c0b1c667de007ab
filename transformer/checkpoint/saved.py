"""Saved: what a save cost or why it failed, asked for once it has ended in the background."""

import collections
import dataclasses
from concurrent.futures import Future


@dataclasses.dataclass(frozen=True)
class Saved:
    """What one save cost, or why there is none."""

    step: int
    blocked: float
    """Seconds that the caller waited, while arrays were copied from the devices."""
    seconds: float = 0.0
    """Seconds until it was complete, on all processes."""
    size: int = 0
    """Bytes written; of a local checkpoint, by this process."""
    failure: str | None = None
    """Why there is no such checkpoint."""
    warning: str | None = None
    """What else went wrong, while the checkpoint is whole."""


def next_outcome(saving: collections.deque[Future[Saved]], *, wait: bool) -> Saved | None:
    """Takes the oldest of the saves off the queue, if it has ended or is to be waited for; returns how it ended."""
    if not saving or not (wait or saving[0].done()):
        return None
    return saving.popleft().result()
