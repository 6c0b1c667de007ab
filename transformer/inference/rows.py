"""Token ids of any lengths as the rows of few compiled programs."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

MULTIPLE = 32
"""Rows are padded to a multiple of this, so that lengths near each other share a compiled program."""

Item = TypeVar("Item")


def round_up(number: int, multiple: int = MULTIPLE) -> int:
    """Returns the next multiple."""
    return -(-number // multiple) * multiple


def padded(
    texts: Sequence[Sequence[int] | np.ndarray], width: int, *, left: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the texts as rows, padded on the left or on the right, and their segment ids: int32 [B, width] each."""
    rows = np.zeros((len(texts), width), np.int32)
    segment_ids = np.zeros_like(rows)
    for row, text in enumerate(texts):
        place = slice(width - len(text), None) if left else slice(0, len(text))
        rows[row, place] = text
        segment_ids[row, place] = 1
    return rows, segment_ids


def batches(items: Sequence[Item], size: int) -> Iterator[tuple[Sequence[Item], Sequence[Item]]]:
    """Yields at most `size` items at a time, and the same items filled up, so that all batches share a program."""
    size = even(len(items), size)
    for start in range(0, len(items), size):
        chosen = items[start : start + size]
        yield chosen, filled(chosen, size)


def even(number: int, most: int) -> int:
    """Returns the rows of a batch, from 1 to `most`, of as few batches as can be, with as few rows as can be filled up.

    Ten items in batches of eight at most are five and five, and not eight and two that are filled up to eight.
    """
    number = max(1, number)
    return -(-number // -(-number // most))


def filled(items: Sequence[Item], size: int) -> list[Item]:
    """Returns `size` items: those given, then they again."""
    return (list(items) * size)[:size]
