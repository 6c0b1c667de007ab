"""RoBERTa in Transformers: BERT's names, and positions that count from the padding token's id."""

from typing import Any

from transformer.interop.bert import BERT_BLOCK, BERT_HARMLESS, BERT_INERT, BERT_LAYER, BERT_PINNED
from transformer.interop.encoders import EMBEDDINGS, EncoderNames, MaskedLMNames, bert_fields
from transformer.interop.family import Family, classes
from transformer.interop.flax_names import ENCODER_HEADS, FlaxClasses
from transformer.interop.rules import dense
from transformer.models.roberta import RobertaConfig

_NAMES = EncoderNames(
    prefix="roberta.",
    embeddings=EMBEDDINGS,
    layer=BERT_LAYER,
    block=BERT_BLOCK,
    masked_lm=MaskedLMNames("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder"),
    pooler="roberta.pooler.dense",
    sequence_classifier={"classifier.dense": dense("head/dense"), "classifier.out_proj": dense("head/out")},
)


def _from_rows(config: dict[str, Any]) -> dict[str, Any]:
    """Returns config.json with the number of positions as we count it: without the rows before the first position."""
    if config.get("max_position_embeddings") is not None:
        config["max_position_embeddings"] -= RobertaConfig.first_position
    return config


def _to_rows(config: dict[str, Any]) -> dict[str, Any]:
    rows = config["max_position_embeddings"] + RobertaConfig.first_position
    return {**config, "max_position_embeddings": rows}


ROBERTA = Family(
    model_type="roberta",
    config=RobertaConfig,
    fields=bert_fields(),
    heads=classes("Roberta", RobertaConfig.heads),
    table=_NAMES.table,
    pinned={**BERT_PINNED, "pad_token_id": 1},  # positions start one above it
    harmless=BERT_HARMLESS,
    inert=BERT_INERT,
    normalise=_from_rows,
    denormalise=_to_rows,
    flax=FlaxClasses(heads=ENCODER_HEADS),
)

FAMILIES = (ROBERTA,)
