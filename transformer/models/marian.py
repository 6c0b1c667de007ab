"""Marian's translation models (Junczys-Dowmunt et al. 2018): the Transformer, sinusoids in halves, a bias of the head.

Shape letters: B batch, T length, S positions, D model width.
"""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.layers.execution import Execution
from transformer.layers.heads import LanguageModelHead
from transformer.layers.primitives import Initializer
from transformer.models.transformer import SinusoidalEmbedding, TransformerConfig


@dataclasses.dataclass(frozen=True)
class MarianConfig(TransformerConfig):
    """A Marian model; the defaults are OPUS-MT English-German's (Tiedemann and Thottingal 2020)."""

    family: ClassVar[str] = "marian"

    vocab_size: int = 58101
    """Pieces of words, of both languages, and padding as the last one."""
    decoder_start_id: int = 58100
    """The token that a decoder's input starts with: padding."""
    activation: str = "silu"
    """Activation of the feed-forward layers: silu ("swish"), relu, gelu or gelu_tanh."""
    context_length: int = 512
    """Positions of each side: the most tokens that it can look at."""
    scale_embeddings: bool = True
    """Whether words are scaled by the width's square root."""

    def check_positions(self) -> None:
        """Raises `UserError` where the positions' fields are impossible."""
        super().check_positions()
        checks.at_least(self, 1, "context_length")

    @property
    def longest_input(self) -> int | None:
        """The most tokens that it can look at."""
        return self.context_length

    @property
    def embedding_scale(self) -> float:
        """What words' vectors are multiplied with."""
        return self.width**0.5 if self.scale_embeddings else 1.0

    @property
    def embedding_init(self) -> Initializer:
        """How the words' embedding starts: uniform, vectors of about unit length (Marian's embedding layer)."""
        return nn.initializers.variance_scaling(1.0, "fan_out", "uniform")

    def embed(self, execution: Execution) -> SinusoidalEmbedding:
        """Returns one side's way from words' vectors to its first block's input."""
        del execution
        encode = functools.partial(_look_up, context=self.context_length, width=self.width)
        return SinusoidalEmbedding(self.embedding_scale, self.dropout, encode)

    def language_model_head(self) -> LanguageModelHead:
        """Returns the head of next words: the embedding, and a bias."""
        return LanguageModelHead(self.vocab_size, tied=True, use_bias=True)


def sinusoid_table(context: int, width: int) -> np.ndarray:
    """Returns float32 [S, D]: all sines, then all cosines, as weight files hold them.

    Computed in float64 as theirs were: a float32 angle of 500 is off by 3e-5.
    """
    angles = np.arange(context)[:, None] / 10000.0 ** (np.arange(0, width, 2) / width)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)


def _look_up(positions_BT: jax.Array, *, context: int, width: int) -> jax.Array:
    if positions_BT.shape[1] > context:
        raise ValueError(f"{positions_BT.shape[1]} tokens for a context of {context}")
    return jnp.take(jnp.asarray(sinusoid_table(context, width)), positions_BT, axis=0, mode="clip")
