"""Positions: sines and cosines, and rotary. (Learned positions are an `Embedding` of positions.)"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp


def sinusoids(
    positions_BT: jax.Array, width: int, *, layout: Literal["interleaved", "halves"], base: float = 10000.0
) -> jax.Array:
    """Returns float32 [B, T, width] with frequencies base^(-2i / width).

    Args:
      positions_BT: int32.
      width: even.
      layout: "interleaved" is sin, cos, sin, cos, ... (Vaswani et al. 2017, section 3.5); "halves" is all sines, then
        all cosines, at the same frequencies (Marian).
      base: of the geometric series of wavelengths.
    """
    angles_BTE = _angles(positions_BT, _frequencies(width, base))
    sin_BTE, cos_BTE = jnp.sin(angles_BTE), jnp.cos(angles_BTE)
    if layout == "halves":
        return jnp.concatenate([sin_BTE, cos_BTE], axis=-1)
    if layout == "interleaved":
        return jnp.stack([sin_BTE, cos_BTE], axis=-1).reshape(*positions_BT.shape, width)
    raise ValueError(f"unknown layout {layout!r}; choose from: interleaved, halves")


@dataclasses.dataclass(frozen=True)
class Llama3Scaling:
    """LLaMA-3.1's stretch of the rotary frequencies to a longer context (its released code, `apply_scaling`)."""

    factor: float
    """Long wavelengths are stretched by this."""
    low_frequency_factor: float
    """Wavelengths above original_context / this are stretched fully."""
    high_frequency_factor: float
    """Wavelengths below original_context / this are left alone; those between are blended."""
    original_context: int
    """Tokens of context before the stretch."""

    def __call__(self, frequencies: jax.Array) -> jax.Array:
        """Returns the stretched frequencies, [E]."""
        turns = self.original_context * frequencies / (2 * math.pi)
        blend = (turns - self.low_frequency_factor) / (self.high_frequency_factor - self.low_frequency_factor)
        blend = jnp.clip(blend, 0.0, 1.0)
        return frequencies * (blend + (1 - blend) / self.factor)


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al. 2021, RoFormer, section 3.2), a head's width in halves as LLaMA's weights have it.

    The pairs that turn are (i, i + K/2), where the paper takes (2i, 2i + 1): the same up to the order of the weights.
    """

    base: float = 10000.0
    """Base of the geometric series of wavelengths."""
    scaling: Llama3Scaling | None = None
    """How to stretch the frequencies; None leaves them."""

    def __call__(self, x_BTHK: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """Returns queries or keys turned by their positions; angles in float32, the dtype of `x_BTHK` kept."""
        frequencies = _frequencies(x_BTHK.shape[-1], self.base)
        if self.scaling is not None:
            frequencies = self.scaling(frequencies)
        angles_BT1E = _angles(positions_BT, frequencies)[:, :, None, :]
        sin, cos = jnp.sin(angles_BT1E), jnp.cos(angles_BT1E)
        first, second = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
        turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return turned.astype(x_BTHK.dtype)


def _frequencies(width: int, base: float) -> jax.Array:
    """Returns float32 [width / 2]: base^(-2i / width)."""
    if width % 2:
        raise ValueError(f"sines and cosines need an even width, not {width}")
    return base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)


def _angles(positions_BT: jax.Array, frequencies_E: jax.Array) -> jax.Array:
    return positions_BT.astype(jnp.float32)[..., None] * frequencies_E[None, None]
