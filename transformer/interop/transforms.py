"""Between an array of theirs and those of ours: pure reshapes, each its own inverse."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """One array of theirs <-> one or more of ours."""

    their_shape: Callable[[Sequence[Shape]], Shape]
    """The shapes of ours -> the shape that theirs must have."""
    load: Callable[[Any, Sequence[Shape]], list[Any]]
    """Their array and the shapes of ours -> our arrays."""
    save: Callable[[Sequence[Any]], Any]
    """Our arrays -> their array."""


def _only(items: Sequence[Any]) -> Any:
    (item,) = items
    return item


IDENTITY = Transform(their_shape=_only, load=lambda array, shapes: [array], save=_only)
"""The same array."""

FLAT = Transform(
    their_shape=lambda shapes: (math.prod(_only(shapes)),),
    load=lambda array, shapes: [array.reshape(_only(shapes))],
    save=lambda arrays: _only(arrays).reshape(-1),
)
"""A bias of theirs, [H * K], and ours, [H, K]."""


def kernel(inputs: int = 1, *, transposed: bool) -> Transform:
    """A matrix of theirs and a kernel of ours, [*inputs, *outputs].

    Args:
      inputs: how many input dimensions ours has.
      transposed: theirs is [outputs, inputs] (PyTorch's Linear), not [inputs, outputs] (GPT-2's Conv1D).
    """

    def matrix(shape: Shape) -> Shape:
        return math.prod(shape[:inputs]), math.prod(shape[inputs:])

    def save(arrays):
        array = _only(arrays).reshape(matrix(_only(arrays).shape))
        return array.T if transposed else array

    return Transform(
        their_shape=lambda shapes: matrix(_only(shapes))[::-1] if transposed else matrix(_only(shapes)),
        load=lambda array, shapes: [(array.T if transposed else array).reshape(_only(shapes))],
        save=save,
    )


def fused(part: Transform, axis: int = -1) -> Transform:
    """Several arrays of ours, each through `part`, joined to one of theirs along `axis`: a fused q, k, v projection."""

    def their_shape(shapes):
        parts = [part.their_shape([shape]) for shape in shapes]
        joined = list(parts[0])
        joined[axis] = sum(shape[axis] for shape in parts)
        return tuple(joined)

    def load(array, shapes):
        sizes = [part.their_shape([shape])[axis] for shape in shapes]
        pieces = np.split(array, np.cumsum(sizes)[:-1], axis=axis)
        return [part.load(piece, [shape])[0] for piece, shape in zip(pieces, shapes, strict=True)]

    return Transform(
        their_shape, load, lambda arrays: np.concatenate([part.save([array]) for array in arrays], axis=axis)
    )
