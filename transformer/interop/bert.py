"""BERT in Transformers."""

from transformer.interop.encoder_rules import EncoderNames, MaskedLMNames, bert_fields, block, embeddings
from transformer.interop.engine import Rule
from transformer.interop.family import Family
from transformer.interop.flax_names import ENCODER_HEADS, FlaxClasses
from transformer.interop.hf_config import Same
from transformer.models.bert import BertConfig

BERT_PINNED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
}

BERT_INERT = {
    "classifier_dropout": (Same("hidden_dropout_prob"),),
    "embedding_size": (Same("hidden_size"),),  # what factorises the embedding has another width
}
"""What says again what another field says."""

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
    flax=FlaxClasses(heads=ENCODER_HEADS),
    inert=BERT_INERT,
)
