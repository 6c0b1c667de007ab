"""ALBERT in Transformers: one group of one layer, which serves every layer."""

from transformer.interop.encoders import EMBEDDINGS, EncoderNames, MaskedLMNames, bert_fields
from transformer.interop.family import Family, classes
from transformer.interop.flax_names import ENCODER_HEADS, FlaxClasses
from transformer.interop.hf_config import Field, Same
from transformer.interop.rules import attention, dense, norm
from transformer.models.albert import AlbertConfig

_NAMES = EncoderNames(
    prefix="albert.",
    embeddings={**EMBEDDINGS, "encoder.embedding_hidden_mapping_in": dense("projection")},
    layer="encoder.albert_layer_groups.0.albert_layers.0",
    block={
        **attention("attention", "attention", ("query", "key", "value", "dense")),
        "attention.LayerNorm": norm("attention_norm"),
        "ffn": dense("mlp/up"),
        "ffn_output": dense("mlp/down"),
        "full_layer_layer_norm": norm("mlp_norm"),
    },
    masked_lm=MaskedLMNames("predictions.dense", "predictions.LayerNorm", "predictions.bias", "predictions.decoder"),
    pooler="albert.pooler",
    sentence="sop_classifier.classifier",
)

ALBERT = Family(
    model_type="albert",
    config=AlbertConfig,
    fields=(
        *bert_fields("gelu_new", 0.0),
        Field("embedding_size", "embedding_width", 128),
        Field("classifier_dropout_prob", "classifier_dropout", 0.1),
    ),
    heads=classes("Albert", AlbertConfig.heads),
    table=_NAMES.table,
    pinned={"num_hidden_groups": 1, "inner_group_num": 1, "position_embedding_type": "absolute"},
    inert={"classifier_dropout": (Same("classifier_dropout_prob"),)},
    # These describe layers that the released models do not have; Transformers reads none of them.
    harmless=("down_scale_factor", "gap_size", "layers_to_keep", "net_structure_type", "num_memory_blocks"),
    flax=FlaxClasses(heads=ENCODER_HEADS),
)

FAMILIES = (ALBERT,)
