"""Packing: which items stand in a row together, so that little is padding."""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from transformer.data.text.sidecar import Writer

_OPEN = 256  # rows that wait for an item that fits
_BLOCK = 65_536  # items that are shuffled among themselves
HOW = (_OPEN, _BLOCK)
"""What decides which items share a row, besides their lengths: for the name of a sidecar."""

Runs = Iterable[tuple[np.ndarray, np.ndarray]]
"""Numbers of items, int[some], and their lengths, int[sides, some]: of a pair's source and target, or of one text."""


def write_rows(writer: Writer, name: str, runs: Runs, room: Sequence[int]) -> int:
    """Packs items and writes `name`, their numbers row by row, and `bounds`, where each row begins and the last ends.

    Args:
      writer: of a sidecar.
      name: of an array.
      runs: the items, none longer than a row.
      room: tokens of a row, for each side.

    Returns:
      How many rows there are.
    """
    rows, bound = 0, 0
    writer.append("bounds", [0])
    packed = _packed(runs, room)
    while batch := list(itertools.islice(packed, _BLOCK)):
        writer.append(name, np.concatenate(batch))
        bounds = bound + np.cumsum([len(row) for row in batch])
        writer.append("bounds", bounds)
        rows, bound = rows + len(batch), int(bounds[-1])
    return rows


def _packed(runs: Runs, room: Sequence[int]) -> Iterator[list[int]]:
    """Yields the items of each row, in order: an item is in the first of the last few rows begun that has room for all
    of its sides.

    Items come in an order that is random, but always the same: neighbours are often alike, and leave the same side of a
    row empty. They are shuffled within blocks alone, so that a row's items lie near each other on disk.
    """
    begun: list[list[int]] = []  # the items of each row that may get another, the oldest first
    rooms = np.zeros((len(room), _OPEN + 1), np.int64)  # room left in them
    rng = np.random.default_rng(0)
    for numbers, lengths in _blocks(runs, len(room)):
        order = np.arange(len(numbers))
        rng.shuffle(order)
        sizes = lengths[:, order]
        for place, item in enumerate(numbers[order].tolist()):
            size = sizes[:, place]
            has_room = np.asarray((rooms[:, : len(begun)] >= size[:, None]).all(axis=0))
            row = int(has_room.argmax()) if begun else 0
            if not begun or not has_room[row]:
                if len(begun) == _OPEN:
                    yield sorted(begun.pop(0))
                    rooms[:, :-1] = rooms[:, 1:]
                row = len(begun)
                begun.append([])
                rooms[:, row] = room
            begun[row].append(item)
            rooms[:, row] -= size
    yield from map(sorted, begun)


def _blocks(runs: Runs, sides: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the same items in runs of `_BLOCK`, and a shorter one at the end."""
    numbers, lengths = np.empty(0, np.int64), np.empty((sides, 0), np.int64)
    for more, more_lengths in runs:
        numbers, lengths = np.concatenate([numbers, more]), np.concatenate([lengths, more_lengths], axis=1)
        while len(numbers) >= _BLOCK:
            yield numbers[:_BLOCK], lengths[:, :_BLOCK]
            numbers, lengths = numbers[_BLOCK:], lengths[:, _BLOCK:]
    if len(numbers):
        yield numbers, lengths
