"""Parts that the tables of BERT and its kin share: the fields of config.json, embeddings, heads."""

import dataclasses
import re
from typing import Any

import numpy as np

from transformer.interop.engine import Rule, Table
from transformer.interop.hf_config import ACTIVATIONS, Field
from transformer.interop.rules import LAYERS, Part, Parts, dense, embedding, norm, under, unembedding
from transformer.models.encoder import EncoderConfig

# Checkpoints converted from TensorFlow, such as bert-base-uncased.
_RENAMES = {r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"}

EMBEDDINGS: dict[str, Part] = {
    "embeddings.word_embeddings": embedding("token_embedding"),
    "embeddings.position_embeddings": embedding("position_embedding"),
    "embeddings.token_type_embeddings": embedding("type_embedding"),
    "embeddings.LayerNorm": norm("embedding_norm"),
}
"""Parts of the backbone, below its prefix."""

_CLASSIFIER = {"classifier": dense("head/out")}
_HEADS: dict[str, Parts] = {
    "sequence_classification": _CLASSIFIER,
    "token_classification": _CLASSIFIER,
    "multiple_choice": _CLASSIFIER,
    "question_answering": {"qa_outputs": dense("head/out")},
}


def bert_fields(activation: str = "gelu", dropout: float = 0.1) -> tuple[Field, ...]:
    """Returns the fields of BERT, RoBERTa and ALBERT; the arguments are Transformers' defaults."""
    return (
        Field("vocab_size", "vocab_size"),
        Field("max_position_embeddings", "context_length"),
        Field("hidden_size", "width"),
        Field("num_hidden_layers", "num_layers"),
        Field("num_attention_heads", "num_heads"),
        Field("intermediate_size", "mlp_width"),
        Field("hidden_act", "activation", activation, ACTIVATIONS),
        Field("hidden_dropout_prob", "dropout", dropout),
        Field("attention_probs_dropout_prob", "attention_dropout", dropout),
        Field("layer_norm_eps", "norm_epsilon", 1e-12),
        Field("type_vocab_size", "num_token_types", 2),
        Field("tie_word_embeddings", "tie_embeddings", True),
    )


@dataclasses.dataclass(frozen=True)
class MaskedLMNames:
    """Full names of the parts of a masked language model's head."""

    transform: str
    norm: str
    bias: str
    """Bias of the scores."""
    decoder: str
    """The unembedding, which may hold the bias under a name of its own."""


@dataclasses.dataclass(frozen=True)
class EncoderNames:
    """Names of an encoder's parts."""

    prefix: str
    """Prefix of the backbone's names, and of the pooler's where it is in the backbone."""
    embeddings: Parts
    """Parts before the layers, below the prefix."""
    layer: str
    """Prefix of the names of a layer's parts, below `prefix`."""
    block: Parts
    """The parts of a layer."""
    masked_lm: MaskedLMNames
    pooler: str
    sentence: str = ""
    """Name of the head of sentence pairs; empty: none."""
    sequence_classifier: Parts = dataclasses.field(default_factory=lambda: _CLASSIFIER)

    def table(self, config: EncoderConfig) -> Table:
        """Returns the names of an architecture's weights."""
        head, heads = config.head, {**_HEADS, "sequence_classification": self.sequence_classifier}
        parts: dict[str, Part] = {}
        if head in config.pooled_heads:
            parts[self.pooler] = dense("pooler/dense")
            if head in ("pretraining", "next_sentence"):
                parts[self.sentence] = dense("sentence/out")
        parts |= heads.get(head, {})
        table = Table(
            rules=(
                *under(self.prefix, "backbone/", self.embeddings),
                *under(f"{self.prefix}{self.layer}.", LAYERS, self.block),
                *under("", "", parts),
            ),
            prefix=self.prefix,
            ignored=(rf"{re.escape(self.prefix)}embeddings\.(position_ids|token_type_ids)",),  # buffers
            renames=_RENAMES,
            bare=head in ("none", "unpooled"),
        )
        return self._with_masked_lm(table, config) if head in ("masked_lm", "pretraining") else table

    def _with_masked_lm(self, table: Table, config: EncoderConfig) -> Table:
        names = self.masked_lm
        weight, bias = f"{names.decoder}.weight", f"{names.decoder}.bias"
        parts: dict[str, Part] = {names.transform: dense("head/transform"), names.norm: norm("head/norm")}
        more: dict[str, Any] = {}
        if config.tie_embeddings:
            scores = (Rule(names.bias, ("head/unembedding/bias",)),)
            words = f"{self.prefix}embeddings.word_embeddings.weight"
            more["aliases"] = {weight: words} | ({bias: names.bias} if bias != names.bias else {})
        else:
            scores = under("", "", {names.decoder: unembedding("head/unembedding", bias=True)})
            if bias != names.bias:  # Transformers keeps the other bias and does not read it
                more["constants"] = {names.bias: lambda: np.zeros(config.vocab_size, np.float32)}
                more["ignored"] = (*table.ignored, re.escape(names.bias))
        return dataclasses.replace(table, rules=(*table.rules, *under("", "", parts), *scores), **more)
