"""Patches: an image as a sequence of vectors, and the tokens and positions that join them.

Shape letters: B batch, P patches, T patches and what joins them, D model width.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.layers.primitives import Embedding, Initializer, Linear
from transformer.ops.resize import resized_grid
from transformer.parallel.rules import RESIDUAL, constrain


class PatchEmbedding(nn.Module):
    """A vector for each patch of an image, row by row: a convolution whose stride is its width, as one product."""

    width: int
    """D."""
    patch_size: int
    """Pixels of a side of a patch."""
    dtype: Any
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns [B, P, D] for images [B, height, width, channels], whose sides are whole numbers of patches."""
        pixels = patches_of(images, self.patch_size)
        init = self.kernel_init
        return Linear((self.width,), ("pixels", "embed"), self.dtype, self.use_bias, init, name="projection")(pixels)


def patches_of(images: jax.Array, patch_size: int) -> jax.Array:
    """Returns the pixels of each patch, [B, P, patch_size * patch_size * channels]: rows, columns, channels.

    Args:
      images: [B, height, width, channels].
      patch_size: pixels of a side of a patch, which divides both sides.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    grid = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, patch_size * patch_size * channels)


class LearnedTokens(nn.Module):
    """Vectors that are learnt and stand before the patches of every image: a class token, registers."""

    count: int
    width: int
    dtype: Any
    init: Initializer = nn.initializers.normal(0.02)

    def setup(self):
        self.table = Embedding(self.count, self.width, ("learned", "embed"), self.dtype, self.init)

    def __call__(self, batch: int) -> jax.Array:
        """Returns [batch, count, D]."""
        vectors = self.table.embedding.astype(self.dtype)
        return jnp.broadcast_to(vectors[None], (batch, *vectors.shape))


class PatchPositions(nn.Module):
    """A learned vector for each patch of a square grid, and for each token before them; other grids' are resized."""

    side: int
    """Patches of a side of the grid that is learnt."""
    before: int
    """Tokens before the patches that have a place of their own."""
    width: int
    antialias: bool = False
    """Whether resizing to fewer patches averages over those that are left out."""
    init: Initializer = nn.initializers.normal(0.02)

    def setup(self):
        count = self.before + self.side**2
        self.table = Embedding(count, self.width, ("grid", "embed"), jnp.float32, self.init)

    def __call__(self, rows: int, columns: int) -> jax.Array:
        """Returns float32 [before + rows * columns, D]."""
        table = self.table.embedding
        if (rows, columns) == (self.side, self.side):
            return table
        before, grid = table[: self.before], table[self.before :].reshape(self.side, self.side, self.width)
        resized = resized_grid(grid, rows, columns, antialias=self.antialias)
        return jnp.concatenate([before, resized.reshape(rows * columns, self.width)])


def joined(*parts_BTD: jax.Array) -> jax.Array:
    """Returns sequences one behind another, [B, T, D]."""
    return constrain(jnp.concatenate(parts_BTD, axis=1), *RESIDUAL)
