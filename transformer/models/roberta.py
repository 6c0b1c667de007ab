"""RoBERTa: BERT without sentence pairs, its positions counted from 2.

Liu et al. 2019, "RoBERTa: a robustly optimized BERT pretraining approach".
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn

from transformer.layers.heads import ClassificationHead, MaskedLMHead
from transformer.layers.primitives import Initializer
from transformer.models.bert import BertConfig
from transformer.models.encoder import CLASSIFIERS


@dataclasses.dataclass(frozen=True)
class RobertaConfig(BertConfig):
    """A RoBERTa; the defaults are RoBERTa base's (124,697,433 parameters with its masked language model's head)."""

    family: ClassVar[str] = "roberta"
    tasks: ClassVar[frozenset[str]] = frozenset()
    heads: ClassVar[tuple[str, ...]] = ("masked_lm", *CLASSIFIERS, "none", "unpooled")
    pooled_heads: ClassVar[frozenset[str]] = frozenset({"multiple_choice", "none"})
    # fairseq counts positions from the padding token's id, 1, plus 1: its table has two rows more than the context.
    first_position: ClassVar[int] = 2

    vocab_size: int = 50265
    """Byte pairs."""
    norm_epsilon: float = 1e-5
    """Added to the variance in LayerNorm."""
    num_token_types: int = 1
    """Kinds of sentences in a row."""

    @property
    def initializer(self) -> Initializer:
        """How every matrix and table starts (fairseq's `init_bert_params`)."""
        return nn.initializers.normal(0.02)

    def masked_lm_head(self, dtype: Any) -> MaskedLMHead:
        """Returns the head of masked words, whose activation is gelu whatever the blocks' is."""
        return MaskedLMHead(
            self.vocab_size, self.width, "gelu", self.norm_epsilon, dtype, self.tie_embeddings, self.initializer
        )

    def classification_head(self, dtype: Any) -> ClassificationHead:
        """Returns the head of classes; that of sequences reads the first token through a layer of its own."""
        activation = "tanh" if self.head == "sequence_classification" else None
        return ClassificationHead(
            self.num_outputs, dtype, activation, dropout=self.head_dropout, kernel_init=self.initializer
        )
