"""Transforms between an array of theirs and arrays of ours: pure reshapes, in both directions."""

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
    inputs: int = 0
    """Number of the input dimensions of a kernel of ours that is a matrix of theirs; 0: it is none."""
    transposed: bool = True
    """Whether that matrix is [outputs, inputs]."""


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
"""Between a bias of theirs, [H * K], and ours, [H, K]."""

FIRST_OF_ONE = Transform(
    their_shape=lambda shapes: (1, *_only(shapes)),
    load=lambda array, shapes: [array.reshape(_only(shapes))],
    save=lambda arrays: _only(arrays)[None],
)
"""Between an array of theirs with a first axis of one, a batch's, and ours without it."""


def patches(size: int) -> Transform:
    """Returns the transform between a convolution over patches, [D, channels, rows, columns], and the kernel of ours,
    [rows * columns * channels, D].

    Args:
      size: rows, and columns, of a patch.
    """

    def their_shape(shapes):
        pixels, width = _only(shapes)
        return width, pixels // size**2, size, size

    def load(array, shapes):
        return [array.transpose(2, 3, 1, 0).reshape(_only(shapes))]

    def save(arrays):
        kernel = _only(arrays)
        return kernel.reshape(size, size, -1, kernel.shape[-1]).transpose(3, 2, 0, 1)

    return Transform(their_shape, load, save)


def kernel(inputs: int = 1, *, transposed: bool) -> Transform:
    """Returns the transform between a matrix of theirs and a kernel of ours, [*inputs, *outputs].

    Args:
      inputs: number of our input dimensions.
      transposed: whether theirs is [outputs, inputs] (PyTorch's Linear), not [inputs, outputs] (GPT-2's Conv1D).
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
        inputs=inputs,
        transposed=transposed,
    )


def fused(part: Transform, axis: int = -1) -> Transform:
    """Returns the transform that joins several arrays of ours, each through `part`, along `axis`: fused q, k, v."""

    def their_shape(shapes):
        parts = [part.their_shape([shape]) for shape in shapes]
        joined = list(parts[0])
        joined[axis] = sum(shape[axis] for shape in parts)
        return tuple(joined)

    def load(array, shapes):
        sizes = [part.their_shape([shape])[axis] for shape in shapes]
        pieces = np.split(array, np.cumsum(sizes)[:-1], axis=axis)
        return [part.load(piece, [shape])[0] for piece, shape in zip(pieces, shapes, strict=True)]

    def save(arrays):
        return np.concatenate([part.save([array]) for array in arrays], axis=axis)

    return Transform(their_shape, load, save, part.inputs, part.transposed)
