"""Resizing of grids of vectors: learned positions of an image, for images of another size.

Keys 1981, "Cubic convolution interpolation for digital image processing", with A = -0.75, as PyTorch's bicubic
`interpolate` has it; `jax.image.resize` and Pillow have A = -0.5.
"""

import jax
import jax.numpy as jnp
import numpy as np

A = -0.75


def resized_grid(grid: jax.Array, rows: int, columns: int, *, antialias: bool = False) -> jax.Array:
    """Returns a grid of vectors at another size, as PyTorch's `interpolate(mode="bicubic", align_corners=False)`.

    Args:
      grid: float32 [rows, columns, D].
      rows: of the result.
      columns: of the result.
      antialias: whether a smaller grid averages over all that it leaves out; PyTorch's then has A = -0.5.
    """
    vertical = jnp.asarray(_weights(grid.shape[0], rows, antialias=antialias), jnp.float32)
    horizontal = jnp.asarray(_weights(grid.shape[1], columns, antialias=antialias), jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    narrowed = jnp.einsum("ri,ijD->rjD", vertical, grid, precision=highest)
    return jnp.einsum("cj,rjD->rcD", horizontal, narrowed, precision=highest)


def _weights(old: int, new: int, *, antialias: bool) -> np.ndarray:
    """Returns the weights, [new, old], of the old places in each new one; places beyond the edge are the edge's."""
    scale, weights = old / new, np.zeros((new, old))
    if antialias:
        stretch = max(scale, 1.0)
        for place in range(new):
            center = scale * (place + 0.5)
            first, last = max(int(center - 2 * stretch + 0.5), 0), min(int(center + 2 * stretch + 0.5), old)
            near = np.arange(first, last)
            values = _kernel((near - center + 0.5) / stretch, -0.5)
            weights[place, near] = values / values.sum()
        return weights
    for place in range(new):
        center = scale * (place + 0.5) - 0.5
        near = np.arange(int(np.floor(center)) - 1, int(np.floor(center)) + 3)
        np.add.at(weights[place], np.clip(near, 0, old - 1), _kernel(near - center, A))
    return weights


def _kernel(distance: np.ndarray, a: float) -> np.ndarray:
    """Returns the cubic convolution kernel at some distances: Keys 1981, equation 15 for a = -0.5."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = a * (((x - 5) * x + 8) * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
