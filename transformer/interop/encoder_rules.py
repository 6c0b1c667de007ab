"""What the tables of BERT and its kin have in common: dense layers, norms, blocks, heads."""

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np

from transformer.interop.engine import Rule, Table
from transformer.interop.hf_config import ACTIVATIONS, Field
from transformer.interop.transforms import FLAT, Transform, kernel
from transformer.models.encoder import EncoderConfig

Rules = tuple[Rule, ...]

_LAYER = "backbone/stack/layers"
# Checkpoints converted from TensorFlow, such as bert-base-uncased.
_RENAMES = {r"LayerNorm\.gamma$": "LayerNorm.weight", r"LayerNorm\.beta$": "LayerNorm.bias"}


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


def dense(theirs: str, ours: str, weight: Transform | None = None, bias: Transform | None = None) -> Rules:
    """Returns the rules of a PyTorch Linear."""
    return (
        Rule(f"{theirs}.weight", (f"{ours}/kernel",), weight or kernel(transposed=True)),
        Rule(f"{theirs}.bias", (f"{ours}/bias",), bias or FLAT),
    )


def norm(theirs: str, ours: str) -> Rules:
    """Returns the rules of a LayerNorm."""
    return Rule(f"{theirs}.weight", (f"{ours}/scale",)), Rule(f"{theirs}.bias", (f"{ours}/bias",))


def embeddings(prefix: str, tables: Sequence[str]) -> Rules:
    """Returns the rules of the first of the tables of words, positions and token types, and of their norm."""
    ours = ("token_embedding", "position_embedding", "type_embedding")
    words = [
        Rule(f"{prefix}{table}.weight", (f"backbone/{name}/embedding",))
        for table, name in zip(tables, ours, strict=False)
    ]
    return (*words, *norm(f"{prefix}LayerNorm", "backbone/embedding_norm"))


def block(prefix: str, qkv: Sequence[str], rest: Sequence[str]) -> Rules:
    """Returns the rules of a block.

    Args:
      prefix: starts the names.
      qkv: names of the projections to queries, keys and values.
      rest: of attention's output, its norm, the feed-forward layers and theirs.
    """
    projections = [
        dense(f"{prefix}{theirs}", f"{_LAYER}/attention/{ours}")
        for theirs, ours in zip(qkv, ("query", "key", "value"), strict=True)
    ]
    out, attention_norm, up, down, mlp_norm = (f"{prefix}{name}" for name in rest)
    return (
        *projections[0],
        *projections[1],
        *projections[2],
        *dense(out, f"{_LAYER}/attention/out", kernel(2, transposed=True)),
        *norm(attention_norm, f"{_LAYER}/attention_norm"),
        *dense(up, f"{_LAYER}/mlp/up"),
        *dense(down, f"{_LAYER}/mlp/down"),
        *norm(mlp_norm, f"{_LAYER}/mlp_norm"),
    )


@dataclasses.dataclass(frozen=True)
class MaskedLMNames:
    """What a masked language model's head is called."""

    transform: str
    norm: str
    bias: str
    """Of the scores."""
    decoder: str
    """The unembedding, which may have a bias of its own name for the same."""


@dataclasses.dataclass(frozen=True)
class EncoderNames:
    """What an encoder's parts are called."""

    prefix: str
    """Starts the backbone's names, and the pooler's where it is in the backbone."""
    backbone: Rules
    words: str
    """The embedding's full name."""
    masked_lm: MaskedLMNames
    pooler: str
    sentence: str = ""
    """The head of sentence pairs; empty: none."""
    sequence_classifier: Rules = dense("classifier", "head/out")

    def table(self, config: EncoderConfig) -> Table:
        """Returns the names of an architecture's weights."""
        head, rules = config.head, [*self.backbone]
        table = functools.partial(
            Table,
            prefix=self.prefix,
            ignored=(rf"{re.escape(self.prefix)}embeddings\.(position_ids|token_type_ids)",),  # buffers
            renames=_RENAMES,
            bare=head in ("none", "unpooled"),
        )
        if head in config.pooled_heads:
            rules += dense(self.pooler, "pooler/dense")
            if head in ("pretraining", "next_sentence"):
                rules += dense(self.sentence, "sentence/out")
        if head == "sequence_classification":
            rules += self.sequence_classifier
        elif head in ("token_classification", "multiple_choice"):
            rules += dense("classifier", "head/out")
        elif head == "question_answering":
            rules += dense("qa_outputs", "head/out")
        if head not in ("masked_lm", "pretraining"):
            return table(tuple(rules))
        return self._masked_lm(table, config, rules)

    def _masked_lm(self, table: functools.partial[Table], config: EncoderConfig, rules: Sequence[Rule]) -> Table:
        names = self.masked_lm
        rules = (*rules, *dense(names.transform, "head/transform"), *norm(names.norm, "head/norm"))
        weight, bias = f"{names.decoder}.weight", f"{names.decoder}.bias"
        if config.tie_embeddings:
            aliases = {weight: self.words} | ({bias: names.bias} if bias != names.bias else {})
            return table((*rules, Rule(names.bias, ("head/unembedding/bias",))), aliases=aliases)
        untied = (Rule(weight, ("head/unembedding/kernel",)), Rule(bias, ("head/unembedding/bias",)))
        if bias == names.bias:
            return table((*rules, *untied))
        # Transformers keeps the other bias and does not read it.
        unused = {names.bias: lambda: np.zeros(config.vocab_size, np.float32)}
        ignored = (*table.keywords["ignored"], re.escape(names.bias))
        return table((*rules, *untied), constants=unused, ignored=ignored)
