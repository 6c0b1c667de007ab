"""DistilBERT: half of BERT's layers, without token types and without a vector a sequence.

Sanh et al. 2019, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter".

Shape letters: B batch, T length, D model width.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax

from transformer import checks
from transformer.layers.blocks import PostNormBlock
from transformer.layers.execution import Execution, Stack
from transformer.layers.heads import Pooler
from transformer.layers.primitives import Dropout, Embedding, LayerNorm
from transformer.models.encoder import CLASSIFIERS, EncoderConfig
from transformer.ops.attention import Mask
from transformer.sharding import RESIDUAL, constrain


@dataclasses.dataclass(frozen=True)
class DistilBertConfig(EncoderConfig):
    """A DistilBERT; the defaults are its base model's (66,362,880 parameters without a head)."""

    family: ClassVar[str] = "distilbert"
    heads: ClassVar[tuple[str, ...]] = ("masked_lm", *CLASSIFIERS, "none")
    # The layer between the first token and its classes is new with the classes; only its place is the pooler's.
    pooled_heads: ClassVar[frozenset[str]] = frozenset({"sequence_classification", "multiple_choice"})

    num_layers: int = 6
    """Blocks."""
    dropout: float = 0.1
    """Probability of dropping embeddings and sublayer outputs, as in BERT (its code leaves attention's outputs whole),
    and what the head of tokens reads."""
    answer_dropout: float = 0.1
    """Probability of dropping what the head of answers reads."""
    classifier_dropout: float = 0.2
    """Probability of dropping what the heads of sequences and choices read."""

    def __post_init__(self):
        super().__post_init__()
        checks.within(self, "[0, 1)", "answer_dropout", "classifier_dropout")

    @property
    def head_dropout(self) -> float:
        """Probability of dropping what a classification head reads."""
        rates = {"question_answering": self.answer_dropout, "token_classification": self.dropout}
        return rates.get(self.head, self.classifier_dropout)

    def pooler(self, dtype: Any) -> Pooler:
        """Returns the layer between the first token and what reads it."""
        return Pooler(dtype, "relu", self.initializer)

    def backbone(self, execution: Execution) -> "DistilBertBackbone":
        """Returns the model below its head."""
        return DistilBertBackbone(self, execution)


class DistilBertBackbone(nn.Module):
    """Embeddings of words and places, normalised, and blocks: tokens in, hidden states out."""

    config: DistilBertConfig
    execution: Execution

    def setup(self):
        config, dtype, init = self.config, self.execution.compute_dtype, self.config.initializer
        self.token_embedding = Embedding(config.vocab_size, config.width, ("vocab", "embed"), dtype, init)
        self.position_embedding = Embedding(config.context_length, config.width, ("positions", "embed"), dtype, init)
        self.embedding_norm = LayerNorm(config.norm_epsilon, dtype)
        self.dropout = Dropout(config.dropout)
        block = functools.partial(PostNormBlock, config.block, self.execution)
        self.stack = Stack(block, config.num_layers, self.execution)

    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array | None,
        token_types_BT: jax.Array | None,
        *,
        deterministic: bool,
    ) -> jax.Array:
        """Returns [B, T, D]; raises ValueError where token types are given."""
        if token_types_BT is not None:
            raise ValueError("a DistilBERT has no token types")
        x_BTD = self.embedding_norm(self.token_embedding(tokens_BT) + self.position_embedding(positions_BT))
        x_BTD = constrain(self.dropout(x_BTD, deterministic=deterministic), *RESIDUAL)
        mask = Mask.self_attention(segment_ids_BT, causal=False)
        return self.stack(x_BTD, None, mask, deterministic=deterministic)[0]
