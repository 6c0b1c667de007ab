"""ALBERT: BERT with one block's parameters for all layers and a narrow embedding, told sentences' order.

Lan et al. 2020, "ALBERT: a lite BERT for self-supervised learning of language representations".

Shape letters: B batch, T length, E embedding width, D model width.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax

from transformer import checks
from transformer.layers.execution import Execution
from transformer.layers.heads import ClassificationHead
from transformer.layers.primitives import Initializer, Linear
from transformer.models.bert import BertBackbone
from transformer.models.encoder import CLASSIFIERS, EncoderConfig


@dataclasses.dataclass(frozen=True)
class AlbertConfig(EncoderConfig):
    """An ALBERT; the defaults are ALBERT base's, version 2 (11,221,680 parameters with the head of masked words)."""

    family: ClassVar[str] = "albert"
    tasks: ClassVar[frozenset[str]] = frozenset({"sentence"})
    heads: ClassVar[tuple[str, ...]] = ("masked_lm", "pretraining", *CLASSIFIERS, "none", "unpooled")
    pooled_heads: ClassVar[frozenset[str]] = frozenset(
        {"pretraining", "sequence_classification", "multiple_choice", "none"}
    )

    vocab_size: int = 30000
    """Pieces."""
    embedding_width: int = 128
    """E: width of the embedding, which one matrix takes to the model width (section 3.1)."""
    num_token_types: int = 2
    """Kinds of sentences in a row: A and B."""
    dropout: float = 0.0
    """Probability of dropping embeddings and sublayer outputs; version 2 has none. (Transformers' code leaves the
    feed-forward layers' output whole; Google's does not.)"""
    attention_dropout: float = 0.0
    """Probability of dropping attention probabilities."""
    classifier_dropout: float = 0.1
    """Probability of dropping what a head of classes or sentences reads."""
    activation: str = "gelu_tanh"
    """Activation of the feed-forward layers and the head of masked words: gelu_tanh (version 2), gelu, relu or silu."""

    def __post_init__(self):
        super().__post_init__()
        checks.at_least(self, 1, "embedding_width", "num_token_types")
        checks.within(self, "[0, 1)", "classifier_dropout")

    @property
    def initializer(self) -> Initializer:
        """How every matrix and table starts: normal, cut at two standard deviations, as BERT's."""
        return nn.initializers.truncated_normal(0.02)

    @property
    def unembedding_width(self) -> int:
        """Width of what the unembedding reads: the embedding's."""
        return self.embedding_width

    @property
    def head_dropout(self) -> float:
        """Probability of dropping what a classification head reads."""
        return 0.0 if self.head == "question_answering" else self.classifier_dropout

    def sentence_head(self, dtype: Any) -> ClassificationHead:
        """Returns the head that tells sentences in order from swapped ones."""
        return ClassificationHead(2, dtype, dropout=self.classifier_dropout, kernel_init=self.initializer)

    def backbone(self, execution: Execution) -> "AlbertBackbone":
        """Returns the model below its head."""
        return AlbertBackbone(self, execution, self.num_token_types, shared=True)


class AlbertBackbone(BertBackbone):
    """Narrow embeddings, normalised, then widened; one block, again and again."""

    def setup(self):
        super().setup()
        config, dtype = self.config, self.execution.compute_dtype
        self.projection = Linear((config.width,), ("embed", "out"), dtype, kernel_init=config.initializer)

    def widen(self, x_BTE: jax.Array) -> jax.Array:
        """Returns [B, T, D] of embeddings, projected."""
        return self.projection(x_BTE)
