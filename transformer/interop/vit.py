"""ViT in Transformers; the names are those of its files, which its modules do not have."""

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
    prefix, parts = "vit.", dict(CLASSIFIER) if config.head == "image_classification" else {}
    if config.head == "none":
        parts[f"{prefix}pooler.dense"] = dense("pooler/dense")
    projection = patch_projection("patch_embedding", config.patch_size)
    return Table(
        rules=(
            learned_tokens(f"{prefix}embeddings.cls_token", "backbone/class_token"),
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
    plain = config.class_token and not (config.registers or config.distillation_token) and config.layer_scale is None
    return plain and config.pooling == "class_token" and config.head in _HEADS


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
    fits=_fits,
    flax=FlaxClasses(heads=("image_classification", "none")),
)

FAMILIES = (VIT,)
