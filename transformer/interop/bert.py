"""BERT in Transformers."""

from typing import Any

from transformer.errors import UserError
from transformer.interop.encoder_rules import EncoderNames, MaskedLMNames, bert_fields, block, embeddings
from transformer.interop.engine import Rule
from transformer.interop.family import Family
from transformer.interop.flax_names import ENCODER_HEADS, FlaxClasses
from transformer.models.bert import BertConfig

BERT_PINNED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "classifier_dropout": None,
}

BERT_HARMLESS = (
    "directionality",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
)
"""Google's bookkeeping, which Transformers does not read."""


def bert_backbone(prefix: str) -> tuple[Rule, ...]:
    """Returns the rules of BERT's backbone, which RoBERTa's names equal but for the prefix."""
    tables = ("word_embeddings", "position_embeddings", "token_type_embeddings")
    return (
        *embeddings(f"{prefix}embeddings.", tables),
        *block(
            f"{prefix}encoder.layer.{{layer}}.",
            ("attention.self.query", "attention.self.key", "attention.self.value"),
            (
                "attention.output.dense",
                "attention.output.LayerNorm",
                "intermediate.dense",
                "output.dense",
                "output.LayerNorm",
            ),
        ),
    )


def bert_normal(config: dict[str, Any]) -> dict[str, Any]:
    """Takes out a rate of dropout for classifiers that is the hidden layers', and an empty list of pruned heads."""
    rate, hidden = config.get("classifier_dropout"), config.get("hidden_dropout_prob", 0.1)
    if rate is not None and rate != hidden:
        raise UserError(
            f"config.json: classifier_dropout = {rate!r} is not supported, only hidden_dropout_prob's {hidden!r}"
        )
    if not config.get("pruned_heads", True):
        del config["pruned_heads"]
    return {**config, "classifier_dropout": None}


_NAMES = EncoderNames(
    prefix="bert.",
    backbone=bert_backbone("bert."),
    words="bert.embeddings.word_embeddings.weight",
    masked_lm=MaskedLMNames(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
        "cls.predictions.decoder",
    ),
    pooler="bert.pooler.dense",
    sentence="cls.seq_relationship",
)

BERT = Family(
    model_type="bert",
    config=BertConfig,
    fields=bert_fields(),
    heads={
        "pretraining": "BertForPreTraining",
        "masked_lm": "BertForMaskedLM",
        "next_sentence": "BertForNextSentencePrediction",
        "sequence_classification": "BertForSequenceClassification",
        "token_classification": "BertForTokenClassification",
        "question_answering": "BertForQuestionAnswering",
        "multiple_choice": "BertForMultipleChoice",
        "none": "BertModel",
        "unpooled": "BertModel",
    },
    table=_NAMES.table,
    pinned=BERT_PINNED,
    harmless=BERT_HARMLESS,
    normalise=bert_normal,
    flax=FlaxClasses(heads=ENCODER_HEADS),
)
