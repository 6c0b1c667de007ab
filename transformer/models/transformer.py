"""The Transformer (Vaswani et al. 2017, "Attention is all you need"): post-norm blocks on both sides.

BART and Marian are this model with other embeddings and sizes; their configs extend this one.

Shape letters: B batch, T length, D model width.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.blocks import BlockSizes, PostNormBlock, PostNormDecoderBlock
from transformer.layers.execution import Execution, LayerOutput, Stack
from transformer.layers.positions import sinusoids
from transformer.layers.primitives import Dropout, Initializer
from transformer.models.encoder_decoder import EncoderDecoderConfig
from transformer.ops.elementwise import ACTIVATIONS, scaled
from transformer.parallel.rules import RESIDUAL, constrain


@dataclasses.dataclass(frozen=True)
class TransformerConfig(EncoderDecoderConfig):
    """A Transformer of 2017; the defaults are the base model's (table 3), for its English-German pieces."""

    family: ClassVar[str] = "transformer"

    vocab_size: int = 37000
    """Pieces of words, of both languages (section 5.1: about 37000)."""
    num_encoder_heads: int = 8
    """Attention heads of the encoder; they divide the width."""
    num_decoder_heads: int = 8
    """Attention heads of the decoder; they divide the width."""
    encoder_mlp_width: int = 2048
    """Width of the encoder's feed-forward layers."""
    decoder_mlp_width: int = 2048
    """Width of the decoder's feed-forward layers."""
    activation: str = "relu"
    """Activation of the feed-forward layers: relu, gelu, gelu_tanh or silu."""
    norm_epsilon: float = 1e-5
    """Added to the variance in LayerNorm (the paper gives none; this is PyTorch's)."""
    dropout: float = 0.1
    """Probability of dropping the embeddings and the sublayers' outputs (section 5.4; the big model: 0.3)."""
    attention_dropout: float = 0.0
    """Probability of dropping attention probabilities. (Not in the paper; its code, Tensor2Tensor, had 0.1.)"""
    mlp_dropout: float = 0.0
    """Probability of dropping the feed-forward layers' hidden values. (As above.)"""

    def __post_init__(self):
        self.check()
        checks.at_least(self, 1, "num_encoder_heads", "num_decoder_heads", "encoder_mlp_width", "decoder_mlp_width")
        checks.divides(self, "num_encoder_heads", "width")
        checks.divides(self, "num_decoder_heads", "width")
        checks.within(self, "[0, 1)", "dropout", "attention_dropout", "mlp_dropout")
        checks.above(self, 0, "norm_epsilon")
        self.check_positions()
        checks.choice(self, "activation", ACTIVATIONS)

    def check_positions(self) -> None:
        """Raises `UserError` where the positions' fields are impossible."""
        checks.rule(self, "width", self.width % 2 == 0, "sines and cosines need an even one")

    @property
    def embedding_scale(self) -> float:
        """What words' vectors are multiplied with (section 3.4)."""
        return self.width**0.5

    @property
    def tied_norms(self) -> tuple[str, ...]:
        """Paths of the norms whose output meets the embedding as unembedding."""
        return ("backbone/decoder/stack/layers/mlp_norm",) if self.head == "language_model" else ()

    @property
    def embedding_init(self) -> Initializer:
        """How the words' embedding starts: vectors of about unit length, before they are scaled (Tensor2Tensor)."""
        return nn.initializers.normal(self.width**-0.5)

    @property
    def matrix_init(self) -> Initializer:
        """How every other matrix starts: Glorot and Bengio 2010, equation 16."""
        return _glorot(self.width)

    @property
    def decoder_heads(self) -> tuple[int, int]:
        """The decoder's attention heads, and the width of each."""
        return self.num_decoder_heads, self.width // self.num_decoder_heads

    def embed(self, execution: Execution) -> nn.Module:
        """Returns one side's way from words' vectors to its first block's input."""
        del execution
        encode = functools.partial(sinusoids, width=self.width, layout="interleaved")
        return SinusoidalEmbedding(self.embedding_scale, self.dropout, encode)

    def encoder(self, execution: Execution) -> "PostNormSide":
        """Returns the encoder above the words' embedding."""
        sizes = self._sizes(self.num_encoder_heads, self.encoder_mlp_width)
        return PostNormSide(self, PostNormBlock, sizes, self.num_encoder_layers, execution)

    def decoder(self, execution: Execution) -> "PostNormSide":
        """Returns the decoder above the words' embedding."""
        sizes = self._sizes(self.num_decoder_heads, self.decoder_mlp_width)
        return PostNormSide(self, PostNormDecoderBlock, sizes, self.num_decoder_layers, execution)

    def _sizes(self, num_heads: int, mlp_width: int) -> BlockSizes:
        return BlockSizes(
            self.width,
            num_heads,
            mlp_width,
            self.activation,
            self.norm_epsilon,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            mlp_dropout=self.mlp_dropout,
            init=self.matrix_init,
        )


class PostNormSide(nn.Module):
    """An encoder or a decoder: positions join the words, then blocks."""

    config: TransformerConfig
    block: Callable[..., nn.Module]
    """`PostNormBlock` or `PostNormDecoderBlock`."""
    sizes: BlockSizes
    num_layers: int
    execution: Execution

    def setup(self):
        make_block = functools.partial(self.block, self.sizes, self.execution)
        self.embed = self.config.embed(self.execution)
        self.stack = Stack(make_block, self.num_layers, self.execution)

    def __call__(
        self, x_BTD: jax.Array, positions_BT: jax.Array, key_positions_BS: jax.Array, caches: Any, *shared: Any,
        deterministic: bool,
    ) -> tuple[jax.Array, LayerOutput]:  # fmt: skip
        """Returns [B, T, D] and what the blocks return beside it; called as `EncoderDecoderConfig.decoder` says."""
        del key_positions_BS
        x_BTD = constrain(self.embed(x_BTD, positions_BT, deterministic=deterministic), *RESIDUAL)
        return self.stack(x_BTD, caches, *shared, deterministic=deterministic)


class SinusoidalEmbedding(nn.Module):
    """scale * words + sinusoids, with dropout: section 3.5."""

    scale: float
    dropout: float
    encode: Callable[[jax.Array], jax.Array]
    """Positions [B, T] -> float32 [B, T, D]."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array, *, deterministic: bool) -> jax.Array:
        """Returns [B, T, D]."""
        x_BTD = scaled(x_BTD, self.scale) + self.encode(positions_BT).astype(x_BTD.dtype)
        return Dropout(self.dropout)(x_BTD, deterministic=deterministic)


def _glorot(width: int) -> Initializer:
    """Returns Glorot's uniform initializer; an attention kernel, [D, H, K] or [H, K, D], is a [D, D] matrix to it."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        matrix = shape if len(shape) == 2 else (width, width)
        return nn.initializers.glorot_uniform()(key, matrix, dtype).reshape(shape)

    return init
