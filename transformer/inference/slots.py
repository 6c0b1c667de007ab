"""Slots: a cache has few to begin with, and twice as many whenever it is full.

Attention reads every slot, whether it holds a token or not: with room for all tokens to come from the start, each would
take the time of the last. A number of slots is a program of its own, which prompts of all lengths share, so numbers
are few.
"""

from collections.abc import Callable
from typing import TypeVar

from transformer.inference.rows import MULTIPLE, round_up

FEWEST = 128
"""Slots to begin with."""

State = TypeVar("State")


def enough(tokens: int, context: int | None) -> int:
    """Returns the slots for so many tokens: a power of two; or, where the next one is near or beyond, a full context's.

    Args:
      tokens: the most tokens of a row, its padding included.
      context: the most tokens that the model can look at; None: any number.
    """
    slots = max(FEWEST, 1 << (tokens - 1).bit_length())
    if context is None:
        return slots
    most = round_up(context) + MULTIPLE  # prompts are padded
    return most if tokens <= most <= slots + MULTIPLE else slots


def run(
    state: State,
    slots: int,
    context: int | None,
    *,
    has_ended: Callable[[State], bool],
    go_on: Callable[[State], State],
    grown: Callable[[State, int], State],
) -> State:
    """Returns the state in which all has ended.

    Args:
      state: the state, with a cache of `slots`.
      slots: from `enough`; `context`: as there.
      has_ended: whether nothing is left to do.
      go_on: goes on until all has ended, or the slots are full.
      grown: returns the state with so many slots, more than before.
    """
    is_full = False
    while not has_ended(state):
        if is_full:
            slots = enough(slots + 1, context)
            state = grown(state, slots)
        state, is_full = go_on(state), True
    return state
