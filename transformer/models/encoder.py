"""An encoder-only model: a family's backbone under any head.

Shape letters: B batch, T length, P masked positions, D model width, C classes.
"""

import abc
import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer import checks
from transformer.layers.blocks import BlockSizes
from transformer.layers.execution import Execution, show
from transformer.layers.heads import (
    BackboneOutput,
    ClassificationHead,
    ClassificationOutput,
    LanguageModelOutput,
    MaskedLMHead,
    Pooler,
    PretrainingOutput,
)
from transformer.layers.primitives import Initializer
from transformer.layers.routing import Routers
from transformer.models.architecture import Architecture
from transformer.ops.elementwise import ACTIVATIONS

EncoderHead = Literal[
    "masked_lm",
    "pretraining",
    "next_sentence",
    "sequence_classification",
    "token_classification",
    "question_answering",
    "multiple_choice",
    "none",
    "unpooled",
]
"""masked_lm and pretraining (masked words and what else the family is pretrained on); next_sentence alone; classes of
sequences or tokens; an answer's start and end; multiple_choice (a score a row); none: hidden states and, where the
family has one, a vector a sequence; unpooled: hidden states alone, where a family has such a vector."""

CLASSIFIERS = ("sequence_classification", "token_classification", "question_answering", "multiple_choice")
"""The heads of classes, which a family has all of."""

EncoderOutput = LanguageModelOutput | ClassificationOutput | BackboneOutput


@dataclasses.dataclass(frozen=True)
class EncoderConfig(Architecture):
    """What every encoder's config has; the defaults are BERT base's."""

    kind: ClassVar[Literal["encoder"]] = "encoder"
    heads: ClassVar[tuple[str, ...]]
    """The heads that the family has."""
    pooled_heads: ClassVar[frozenset[str]]
    """Those of them that read a vector a sequence: of the first token, through the `pooler`."""

    vocab_size: int = 30522
    """Word pieces."""
    context_length: int = 512
    """Learned positions: the most tokens that the model can look at."""
    width: int = 768
    """Model width."""
    num_layers: int = 12
    """Blocks."""
    num_heads: int = 12
    """Attention heads; they divide the width."""
    mlp_width: int = 3072
    """Width of the feed-forward layers."""
    dropout: float = 0.1
    """Probability of dropping embeddings, sublayer outputs and what a classification head reads."""
    attention_dropout: float = 0.1
    """Probability of dropping attention probabilities."""
    norm_epsilon: float = 1e-12
    """Added to the variance in LayerNorm."""
    activation: str = "gelu"
    """Activation of the feed-forward layers and the head of masked words: gelu, gelu_tanh, relu or silu."""
    tie_embeddings: bool = True
    """Whether the head multiplies with the embedding, or with a matrix of its own."""
    head: EncoderHead = "masked_lm"
    """What the hidden states are for."""
    num_labels: int = 2
    """Classes of a classification head."""

    def __post_init__(self):
        checks.at_least(self, 1, "vocab_size", "context_length", "width", "num_layers", "num_heads", "mlp_width")
        self.check_labels()
        checks.divides(self, "num_heads", "width")
        checks.within(self, "[0, 1)", "dropout", "attention_dropout")
        checks.above(self, 0, "norm_epsilon")
        checks.choice(self, "activation", ACTIVATIONS)
        checks.choice(self, "head", self.heads)

    @abc.abstractmethod
    def backbone(self, execution: Execution) -> nn.Module:
        """Returns the model below its head.

        It has a `token_embedding`, is called as backbone(tokens_BT, positions_BT, segment_ids_BT, token_types_BT,
        deterministic=...) and returns [B, T, D] and all layers' `LayerOutput`.
        """

    def build(self, execution: Execution) -> "Encoder":
        """Returns the module: the model without its weights."""
        return Encoder(self, execution)

    @property
    def longest_input(self) -> int | None:
        """The most tokens that it can look at."""
        return self.context_length

    @property
    def stacks(self) -> dict[str, int]:
        """Module that holds the stack of layers -> how many."""
        return {"stack": self.num_layers}

    @property
    def initializer(self) -> Initializer:
        """How every matrix and table starts: as in the PyTorch releases."""
        return nn.initializers.normal(0.02)

    @property
    def block(self) -> BlockSizes:
        """What each block is."""
        return BlockSizes(
            self.width,
            self.num_heads,
            self.mlp_width,
            self.activation,
            self.norm_epsilon,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            init=self.initializer,
        )

    @property
    def unembedding_width(self) -> int:
        """Width of what the unembedding reads: the embedding's."""
        return self.width

    @property
    def tied_norms(self) -> tuple[str, ...]:
        """Paths of the norms whose output meets the embedding as unembedding."""
        return ("head/norm",) if self.tie_embeddings and self.head in ("masked_lm", "pretraining") else ()

    @property
    def num_outputs(self) -> int:
        """Scores of a classification head."""
        return {"question_answering": 2, "multiple_choice": 1}.get(self.head, self.num_labels)

    @property
    def head_dropout(self) -> float:
        """Probability of dropping what a classification head reads."""
        return 0.0 if self.head == "question_answering" else self.dropout

    def masked_lm_head(self, dtype: Any) -> MaskedLMHead:
        """Returns the head of masked words."""
        return MaskedLMHead(
            self.vocab_size,
            self.unembedding_width,
            self.activation,
            self.norm_epsilon,
            dtype,
            self.tie_embeddings,
            self.initializer,
        )

    def classification_head(self, dtype: Any) -> ClassificationHead:
        """Returns the head of classes."""
        return ClassificationHead(self.num_outputs, dtype, dropout=self.head_dropout, kernel_init=self.initializer)

    def sentence_head(self, dtype: Any) -> ClassificationHead:
        """Returns the head that tells how two sentences belong together."""
        return ClassificationHead(2, dtype, kernel_init=self.initializer)

    def pooler(self, dtype: Any) -> Pooler:
        """Returns the layer between the first token and what reads it."""
        return Pooler(dtype, kernel_init=self.initializer)


class Encoder(nn.Module):
    """Tokens in; masked words, classes, or hidden states out."""

    config: EncoderConfig
    execution: Execution

    def setup(self):
        config, dtype = self.config, self.execution.compute_dtype
        self.backbone = config.backbone(self.execution)
        if config.head in config.pooled_heads:
            self.pooler = config.pooler(dtype)
            if config.head in ("pretraining", "next_sentence"):
                self.sentence = config.sentence_head(dtype)
        if config.head in ("masked_lm", "pretraining"):
            self.head: Any = config.masked_lm_head(dtype)
        elif config.head not in ("next_sentence", "none", "unpooled"):
            self.head = config.classification_head(dtype)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        *,
        token_types: jax.Array | None = None,
        masked_positions: jax.Array | None = None,
        deterministic: bool = True,
    ) -> EncoderOutput:
        """Returns scores of words, of all tokens or of the masked ones; or of classes, [B, C] of a row or [B, T, C].

        A row's scores are read off its first token. A multiple choice is a row a choice, [B, 1].

        Args:
          tokens: int32 [B, T].
          positions: int32 [B, T], from 0; None: 0, 1, ... T - 1.
          segment_ids: int32 [B, T]. Tokens attend within their segment; 0 is padding. None: one segment, no padding.
          token_types: int32 [B, T], of the first (0) or second (1) sentence; None: all 0.
          masked_positions: int32 [B, P], the places of the tokens whose words are scored; None: all.
          deterministic: no dropout; otherwise the random stream "dropout" is needed.
        """
        hidden_BTD, routers = self.encode(tokens, positions, segment_ids, token_types, deterministic=deterministic)
        return self.predict(hidden_BTD, masked_positions, deterministic=deterministic).replace(routers=routers)

    def encode(
        self,
        tokens: jax.Array,
        positions: jax.Array | None,
        segment_ids: jax.Array | None,
        token_types: jax.Array | None,
        *,
        deterministic: bool,
    ) -> tuple[jax.Array, Routers]:
        """Returns hidden states, [B, T, D], and the sums of experts' routers."""
        length, context = tokens.shape[1], self.config.context_length
        if length > context:
            raise ValueError(f"{length} tokens for a context of {context}")
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], tokens.shape)
        hidden_BTD, output = self.backbone(tokens, positions, segment_ids, token_types, deterministic=deterministic)
        show(self, "states", "last", hidden_BTD)
        return hidden_BTD, output.routers

    def predict(
        self, hidden_BTD: jax.Array, masked_positions: jax.Array | None, *, deterministic: bool
    ) -> EncoderOutput:
        """Returns what the head makes of hidden states."""
        head, pools = self.config.head, self.config.head in self.config.pooled_heads
        first_BD = self.pooler(hidden_BTD) if pools else hidden_BTD[:, 0]
        if head in ("none", "unpooled"):
            return BackboneOutput(hidden_BTD, first_BD if pools else None)
        if head == "next_sentence":
            return ClassificationOutput(self.sentence(first_BD, deterministic=deterministic))
        if head in ("masked_lm", "pretraining"):
            words = self.head(hidden_BTD, self.backbone.token_embedding.embedding, masked_positions)
            if head == "masked_lm":
                return words
            sentence_B2 = self.sentence(first_BD, deterministic=deterministic) if pools else None
            return PretrainingOutput(words.hidden_BTD, words.unembedding_VD, words.bias_V, sentence_B2=sentence_B2)
        of_rows = head in ("sequence_classification", "multiple_choice")
        return ClassificationOutput(self.head(first_BD if of_rows else hidden_BTD, deterministic=deterministic))
