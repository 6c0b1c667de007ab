"""Slots: a cache has few to begin with, and twice as many whenever it is full.

Attention reads every slot, whether it holds a token or not: with room for all tokens to come from the start, each would
take the time of the last. A number of slots is a program of its own, which prompts of all lengths share, so numbers
are few.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from transformer.inference import incremental
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


def rolling(config: Any) -> int | None:
    """Returns the slots that are enough at any length, where every layer sees a window of tokens alone; else None.

    A model with some layers that see all tokens (GPT-3's) keeps all of them for every layer.
    """
    windows = config.attention_windows
    return None if None in windows else round_up(max(windows))


def start(
    model: Any, params: Any, inputs: incremental.Inputs, slots: int, rolling: int | None
) -> tuple[jax.Array, Any, jax.Array]:
    """Returns what `incremental.start` does, with `rolling` slots where those are fewer, of the newest tokens."""
    if rolling is None or rolling >= slots:
        return incremental.start(model, params, inputs, slots)
    logits_BV, cache, position_B = incremental.start(model, params, inputs, max(inputs["prompt"].shape[1], rolling))
    return logits_BV, cache.resized(rolling), position_B


def grown(cache: Any, slots: int, rolling: int | None) -> Any:
    """Returns the cache with so many slots, or with `rolling` ones, which are then filled again and again."""
    return cache.resized(slots if rolling is None else min(slots, rolling))


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
