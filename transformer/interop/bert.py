"""BERT in Transformers."""

from transformer.interop.encoders import EMBEDDINGS, EncoderNames, MaskedLMNames, bert_fields
from transformer.interop.family import Family, classes
from transformer.interop.flax_names import ENCODER_HEADS, FlaxClasses
from transformer.interop.hf_config import Same
from transformer.interop.rules import Part, attention, dense, norm
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
"""Fields that repeat another field."""

BERT_HARMLESS = (
    "directionality",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
)
"""Google's bookkeeping, which Transformers does not read."""

BERT_LAYER = "encoder.layer.{layer}"
BERT_BLOCK: dict[str, Part] = {
    **attention("attention", "attention", ("self.query", "self.key", "self.value", "output.dense")),
    "attention.output.LayerNorm": norm("attention_norm"),
    "intermediate.dense": dense("mlp/up"),
    "output.dense": dense("mlp/down"),
    "output.LayerNorm": norm("mlp_norm"),
}
"""The modules of a layer, under names that RoBERTa shares."""

_NAMES = EncoderNames(
    prefix="bert.",
    embeddings=EMBEDDINGS,
    layer=BERT_LAYER,
    block=BERT_BLOCK,
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
    heads=classes("Bert", BertConfig.heads),
    table=_NAMES.table,
    pinned=BERT_PINNED,
    harmless=BERT_HARMLESS,
    fits=lambda config: config.experts is None,
    flax=FlaxClasses(heads=ENCODER_HEADS),
    inert=BERT_INERT,
)

FAMILIES = (BERT,)
