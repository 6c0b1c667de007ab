"""Positions: sines and cosines, and rotary. (Learned positions are an `Embedding` of positions.)"""

import dataclasses
import math
from typing import ClassVar, Literal

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

    magnitude: ClassVar[float] = 1.0
    """What queries and keys are multiplied with as they are turned."""

    def __call__(self, frequencies: jax.Array, base: float) -> jax.Array:
        """Returns the stretched frequencies, [E]; `base` is that of their series."""
        turns = self.original_context * frequencies / (2 * math.pi)
        blend = (turns - self.low_frequency_factor) / (self.high_frequency_factor - self.low_frequency_factor)
        blend = jnp.clip(blend, 0.0, 1.0)
        return frequencies * (blend + (1 - blend) / self.factor)


@dataclasses.dataclass(frozen=True)
class YarnScaling:
    """YaRN's stretch of the rotary frequencies (Peng et al. 2023, sections 3.2 to 3.4), as DeepSeek-V3 spells it.

    DeepSeek-V3's code also widens the scores, by `score_magnitude`, instead of the queries and keys.
    """

    factor: float
    """Long wavelengths are stretched by this."""
    original_context: int
    """Tokens of context before the stretch."""
    fast_turns: float = 32.0
    """Wavelengths that turn more often than this in the original context are left alone (beta_fast)."""
    slow_turns: float = 1.0
    """Wavelengths that turn more rarely than this are stretched fully; those between are blended (beta_slow)."""
    mscale: float = 1.0
    """How much queries and keys grow with the logarithm of `factor`, each."""
    mscale_all_dim: float = 0.0
    """How much of that growth all dimensions of the scores have, not those alone that are turned."""

    @property
    def magnitude(self) -> float:
        """What queries and keys are multiplied with as they are turned."""
        return self._growth(self.mscale) / self._growth(self.mscale_all_dim)

    @property
    def score_magnitude(self) -> float:
        """What all scores are multiplied with."""
        return self._growth(self.mscale_all_dim) ** 2

    def __call__(self, frequencies: jax.Array, base: float) -> jax.Array:
        """Returns the stretched frequencies, [E]; `base` is that of their series."""
        count = frequencies.shape[0]

        def index_of(turns: float) -> float:
            """Returns the index of the frequency that turns so often in the original context."""
            return count * math.log(self.original_context / (turns * 2 * math.pi)) / math.log(base)

        first = max(math.floor(index_of(self.fast_turns)), 0)
        last = min(math.ceil(index_of(self.slow_turns)), 2 * count - 1)
        width = last - first if last != first else 0.001
        blend = jnp.clip((jnp.arange(count, dtype=jnp.float32) - first) / width, 0.0, 1.0)
        return frequencies / self.factor * blend + frequencies * (1 - blend)

    def _growth(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary positions (Su et al. 2021, RoFormer, section 3.2), a head's width in halves as LLaMA's weights have it.

    The pairs that turn are (i, i + K/2), where the paper takes (2i, 2i + 1): the same up to the order of the weights.
    """

    base: float = 10000.0
    """Base of the geometric series of wavelengths."""
    scaling: Llama3Scaling | YarnScaling | None = None
    """How to stretch the frequencies; None leaves them."""
    interleaved: bool = False
    """Whether the pairs that turn are (2i, 2i + 1), as in the paper and in DeepSeek's weights. What is turned comes in
    halves all the same, queries and keys alike, so that their products are the paper's."""

    def __call__(self, x_BTHK: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """Returns queries or keys turned by their positions; angles in float32, the dtype of `x_BTHK` kept."""
        frequencies = _frequencies(x_BTHK.shape[-1], self.base)
        if self.scaling is not None:
            frequencies = self.scaling(frequencies, self.base)
        angles_BT1E = _angles(positions_BT, frequencies)[:, :, None, :]
        sin, cos = jnp.sin(angles_BT1E), jnp.cos(angles_BT1E)
        if self.scaling is not None and self.scaling.magnitude != 1.0:
            sin, cos = sin * self.scaling.magnitude, cos * self.scaling.magnitude
        x = x_BTHK.astype(jnp.float32)
        if self.interleaved:
            pairs = x.reshape(*x.shape[:-1], -1, 2)
            first, second = pairs[..., 0], pairs[..., 1]
        else:
            first, second = jnp.split(x, 2, axis=-1)
        turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        return turned.astype(x_BTHK.dtype)


def _frequencies(width: int, base: float) -> jax.Array:
    """Returns float32 [width / 2]: base^(-2i / width)."""
    if width % 2:
        raise ValueError(f"sines and cosines need an even width, not {width}")
    return base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)


def _angles(positions_BT: jax.Array, frequencies_E: jax.Array) -> jax.Array:
    return positions_BT.astype(jnp.float32)[..., None] * frequencies_E[None, None]
