"""BART (Lewis et al. 2020): the Transformer with learned positions, and a norm before the first block of each side.

Shape letters: B batch, T length, D model width.
"""

import dataclasses
from typing import Any, ClassVar, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.execution import Execution
from transformer.layers.heads import ClassificationHead
from transformer.layers.primitives import Dropout, Embedding, Initializer, LayerNorm
from transformer.models.encoder_decoder import EncoderDecoderHead
from transformer.models.transformer import TransformerConfig
from transformer.ops.elementwise import scaled


@dataclasses.dataclass(frozen=True)
class BartConfig(TransformerConfig):
    """A BART model; the defaults are BART base's (139,420,416 parameters)."""

    family: ClassVar[str] = "bart"
    # fairseq counts positions from the padding token's id, 1, plus 1: its tables have two rows more than the context.
    first_position: ClassVar[int] = 2
    heads: ClassVar[tuple[str, ...]] = get_args(EncoderDecoderHead)

    vocab_size: int = 50265
    """GPT-2's byte pairs, and a few tokens more."""
    width: int = 768
    """Model width: of both residual streams."""
    decoder_start_id: int = 2
    """The token that a decoder's input starts with: fairseq's end of a sentence."""
    head: EncoderDecoderHead = "language_model"
    """What the decoder's hidden states are for."""
    num_encoder_heads: int = 12
    """Attention heads of the encoder; they divide the width."""
    num_decoder_heads: int = 12
    """Attention heads of the decoder; they divide the width."""
    encoder_mlp_width: int = 3072
    """Width of the encoder's feed-forward layers."""
    decoder_mlp_width: int = 3072
    """Width of the decoder's feed-forward layers."""
    activation: str = "gelu"
    """Activation of the feed-forward layers: gelu (section 2.1), gelu_tanh, relu or silu."""
    attention_dropout: float = 0.1
    """Probability of dropping attention probabilities."""
    mlp_dropout: float = 0.1
    """Probability of dropping the feed-forward layers' hidden values."""
    context_length: int = 1024
    """Learned positions of each side: the most tokens that it can look at."""
    scale_embeddings: bool = False
    """Whether words are scaled by the width's square root, as the Transformer's."""
    classifier_dropout: float = 0.0
    """Probability of dropping what a classification head reads."""

    def check_positions(self) -> None:
        """Raises `UserError` where the fields that the Transformer does not have are impossible."""
        checks.at_least(self, 1, "context_length")
        checks.within(self, "[0, 1)", "classifier_dropout")

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
        """How the words' embedding starts (section 2.1: N(0, 0.02), as all else)."""
        return nn.initializers.normal(0.02)

    @property
    def matrix_init(self) -> Initializer:
        """How every other matrix starts."""
        return nn.initializers.normal(0.02)

    def embed(self, execution: Execution) -> "BartEmbedding":
        """Returns one side's way from words' vectors to its first block's input."""
        return BartEmbedding(self, execution)

    def classification_head(self, dtype: Any) -> ClassificationHead:
        """Returns the head of classes: a sequence's goes through a layer of its own, and has dropout.

        The decoder then reads the source again, shifted right (fairseq, Transformers): its last token's state is where
        the source has its end, and has seen all of it.
        """
        if self.head == "question_answering":
            return ClassificationHead(2, dtype)
        return ClassificationHead(self.num_labels, dtype, activation="tanh", dropout=self.classifier_dropout)


class BartEmbedding(nn.Module):
    """norm(words + learned positions), with dropout."""

    config: BartConfig
    execution: Execution

    @nn.compact
    def __call__(self, x_BTD: jax.Array, positions_BT: jax.Array, *, deterministic: bool) -> jax.Array:
        """Returns [B, T, D]."""
        config, dtype = self.config, self.execution.compute_dtype
        length, context = x_BTD.shape[1], config.context_length
        if length > context:
            raise ValueError(f"{length} tokens for a context of {context}")
        if config.scale_embeddings:
            x_BTD = scaled(x_BTD, config.embedding_scale)
        rows, names = context + config.first_position, ("positions", "embed")
        # In float32, as the gradient of positions that all rows share is a sum over the batch.
        positions = Embedding(rows, config.width, names, jnp.float32, name="position_embedding")
        x_BTD = (x_BTD.astype(jnp.float32) + positions(positions_BT + config.first_position)).astype(dtype)
        x_BTD = LayerNorm(config.norm_epsilon, dtype, name="norm")(x_BTD)
        return Dropout(config.dropout)(x_BTD, deterministic=deterministic)
