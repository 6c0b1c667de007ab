"""BERT: a post-norm encoder, pretrained to tell masked words and whether one sentence follows another.

Devlin et al. 2019, "BERT: pre-training of deep bidirectional Transformers for language understanding".

Shape letters: B batch, T length, E embedding width, D model width.
"""

import dataclasses
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.blocks import BlockSizes, PostNormBlock
from transformer.layers.execution import Execution, LayerOutput, Stack
from transformer.layers.experts_config import ExpertsConfig
from transformer.layers.primitives import Dropout, Embedding, Initializer, LayerNorm
from transformer.models.encoder import CLASSIFIERS, EncoderConfig
from transformer.ops.attention import Mask
from transformer.parallel.rules import RESIDUAL, constrain


@dataclasses.dataclass(frozen=True)
class BertConfig(EncoderConfig):
    """A BERT; the defaults are BERT base's, uncased (109,482,240 parameters without a head)."""

    family: ClassVar[str] = "bert"
    tasks: ClassVar[frozenset[str]] = frozenset({"sentence"})
    heads: ClassVar[tuple[str, ...]] = ("masked_lm", "pretraining", "next_sentence", *CLASSIFIERS, "none", "unpooled")
    pooled_heads: ClassVar[frozenset[str]] = frozenset(
        {"pretraining", "next_sentence", "sequence_classification", "multiple_choice", "none"}
    )

    num_token_types: int = 2
    """Kinds of sentences in a row: A and B."""
    experts: ExpertsConfig | None = None
    """Experts, without biases, in the place of every feed-forward layer; None: there are none, as in the paper."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least(self, 1, "num_token_types")

    @property
    def routing(self) -> ExpertsConfig | None:
        return self.experts

    @property
    def block(self) -> BlockSizes:
        return dataclasses.replace(super().block, experts=self.experts)

    @property
    def initializer(self) -> Initializer:
        """How every matrix and table starts: normal, cut at two standard deviations (`create_initializer`)."""
        return nn.initializers.truncated_normal(0.02)

    def backbone(self, execution: Execution) -> "BertBackbone":
        """Returns the model below its head."""
        return BertBackbone(self, execution, self.num_token_types)


class BertBackbone(nn.Module):
    """Embeddings, normalised, and blocks: tokens in, hidden states out."""

    config: EncoderConfig
    execution: Execution
    num_token_types: int
    """Kinds of sentences in a row; 0: the family knows none."""
    shared: bool = False
    """Whether all layers have one block's parameters."""

    def setup(self):
        config, dtype = self.config, self.execution.compute_dtype
        width, init = config.unembedding_width, config.initializer
        self.token_embedding = Embedding(config.vocab_size, width, ("vocab", "embed"), dtype, init)
        rows = config.first_position + config.context_length
        self.position_embedding = Embedding(rows, width, ("positions", "embed"), dtype, init)
        if self.num_token_types:
            self.type_embedding = Embedding(self.num_token_types, width, ("types", "embed"), dtype, init)
        self.embedding_norm = LayerNorm(config.norm_epsilon, dtype)
        self.dropout = Dropout(config.dropout)
        block = functools.partial(PostNormBlock, config.block, self.execution)
        self.stack = Stack(block, config.num_layers, self.execution, shared=self.shared)

    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array | None,
        token_types_BT: jax.Array | None,
        *,
        deterministic: bool,
    ) -> tuple[jax.Array, LayerOutput]:
        """Returns [B, T, D] and what the blocks return beside it.

        Raises:
          ValueError: token types are given to a family that knows none.
        """
        x_BTE = self.token_embedding(tokens_BT)
        if self.num_token_types:
            x_BTE += self.type_embedding(jnp.zeros_like(tokens_BT) if token_types_BT is None else token_types_BT)
        elif token_types_BT is not None:
            raise ValueError(f"{self.config.family} has no token types")
        x_BTE = self.embedding_norm(x_BTE + self.position_embedding(positions_BT + self.config.first_position))
        x_BTD = constrain(self.widen(self.dropout(x_BTE, deterministic=deterministic)), *RESIDUAL)
        mask = Mask.self_attention(segment_ids_BT, causal=False)
        return self.stack(x_BTD, None, mask, deterministic=deterministic)

    def widen(self, x_BTE: jax.Array) -> jax.Array:
        """Returns [B, T, D] of embeddings, which already have the model's width."""
        return x_BTE
