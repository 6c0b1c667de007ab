"""ViT and distilled DeiT in Transformers; the names are those of their files, which ViT's modules do not have.

A DeiT without a distillation token is published as a ViT, and Transformers' class of one head on a model of two learned
tokens (`DeiTForImageClassification`) is of no published weights.
"""

from typing import Any

from transformer.interop.engine import Table
from transformer.interop.family import Family, classes
from transformer.interop.flax_names import FlaxClasses
from transformer.interop.hf_config import Field, Same
from transformer.interop.images import CLASSIFIER, WORDLESS, image_fields, learned_tokens, patch_projection
from transformer.interop.rules import LAYERS, Part, attention, dense, norm, under
from transformer.models.vit import ViTConfig

VIT_BLOCK: dict[str, Part] = {
    **attention("attention", "attention", ("attention.query", "attention.key", "attention.value", "output.dense")),
    "intermediate.dense": dense("mlp/up"),
    "output.dense": dense("mlp/down"),
    "layernorm_before": norm("attention_norm"),
    "layernorm_after": norm("mlp_norm"),
}
"""The modules of a layer."""


def _block(config: ViTConfig) -> dict[str, Part]:
    """Returns the modules of a layer; its projections to queries, keys and values may have no bias."""
    if config.attention_bias:
        return VIT_BLOCK
    names = ("attention.query", "attention.key", "attention.value")
    bare = {f"attention.{name}": dense(f"attention/{name.split('.')[-1]}", bias=False) for name in names}
    return VIT_BLOCK | bare


def _table(config: ViTConfig) -> Table:
    """Returns the names of an architecture's weights."""
    prefix = "deit." if config.distillation_token else "vit."
    parts: dict[str, Part] = {}
    if config.head == "image_classification":
        parts |= _TWO_CLASSIFIERS if config.distillation_token else CLASSIFIER
    if config.head == "none":
        parts[f"{prefix}pooler.dense"] = dense("pooler/dense")
    projection = patch_projection("patch_embedding", config.patch_size)
    second = (
        (learned_tokens(f"{prefix}embeddings.distillation_token", "backbone/distillation_token"),)
        if config.distillation_token
        else ()
    )
    return Table(
        rules=(
            learned_tokens(f"{prefix}embeddings.cls_token", "backbone/class_token"),
            *second,
            learned_tokens(f"{prefix}embeddings.position_embeddings", "backbone/position_embedding"),
            *under(prefix, "backbone/", {"embeddings.patch_embeddings.projection": projection}),
            *under(prefix, "backbone/", {"layernorm": norm("final_norm")}),
            *under(f"{prefix}encoder.layer.{{layer}}.", LAYERS, _block(config)),
            *under("", "", parts),
        ),
        prefix=prefix,
        bare=config.head in ("none", "unpooled"),
    )


def _fits(config: ViTConfig) -> bool:
    plain = config.class_token and not config.registers and config.layer_scale is None
    return plain and config.pooling == "class_token" and config.head in _HEADS


_TWO_CLASSIFIERS: dict[str, Part] = {
    "cls_classifier": dense("head/out"),
    "distillation_classifier": dense("distillation_head/out"),
}

_FIELDS = (*image_fields(1e-12), Field("patch_size", "patch_size", 16), Field("intermediate_size", "mlp_width", 3072))
_INERT = {"pooler_output_size": (Same("hidden_size"), None)}
_HARMLESS = (*WORDLESS, "encoder_stride")  # the latter of Transformers' head for masked images, another than ours
_HEADS = ("image_classification", "none", "unpooled")

VIT = Family(
    model_type="vit",
    config=ViTConfig,
    fields=_FIELDS,
    heads=classes("ViT", _HEADS),
    table=_table,
    pinned={"pooler_act": "tanh"},
    inert=_INERT,
    harmless=_HARMLESS,
    fits=lambda config: _fits(config) and not config.distillation_token,
    flax=FlaxClasses(heads=("image_classification", "none")),
)


def _without_token(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "distillation_token"}


DEIT = Family(
    model_type="deit",
    config=ViTConfig,
    # The model type says it, and no field of config.json.
    fields=(*_FIELDS, Field("distillation_token", "distillation_token", True)),
    heads=classes("DeiT", _HEADS, image_classification="DeiTForImageClassificationWithTeacher"),
    table=_table,
    pinned={"pooler_act": "tanh"},
    inert=_INERT,
    harmless=_HARMLESS,
    denormalise=_without_token,
    fits=lambda config: _fits(config) and config.distillation_token,
)

FAMILIES = (VIT, DEIT)
