"""DINOv2 in Transformers, with and without registers."""

from typing import Any

from transformer.errors import UserError
from transformer.interop.engine import Rule, Table
from transformer.interop.family import Family, classes
from transformer.interop.hf_config import Field
from transformer.interop.images import CLASSIFIER, WORDLESS, image_fields, learned_tokens, patch_projection
from transformer.interop.rules import LAYERS, Part, dense, norm, under
from transformer.interop.vit import VIT_BLOCK
from transformer.models.dinov2 import Dinov2Config

_BLOCK: dict[str, Part] = {
    **{name: part for name, part in VIT_BLOCK.items() if name.startswith("attention.")},
    "mlp.fc1": dense("mlp/up"),
    "mlp.fc2": dense("mlp/down"),
    "norm1": norm("attention_norm"),
    "norm2": norm("mlp_norm"),
    "layer_scale1": (Rule("lambda1", ("attention_scale/scale",)),),
    "layer_scale2": (Rule("lambda1", ("mlp_scale/scale",)),),
}


def _table(config: Dinov2Config) -> Table:
    """Returns the names of an architecture's weights."""
    prefix = "dinov2_with_registers." if config.registers else "dinov2."
    parts = {
        "embeddings.patch_embeddings.projection": patch_projection("patch_embedding", config.patch_size),
        "layernorm": norm("final_norm"),
    }
    tokens = [
        learned_tokens(f"{prefix}embeddings.cls_token", "backbone/class_token"),
        learned_tokens(f"{prefix}embeddings.position_embeddings", "backbone/position_embedding"),
    ]
    if config.mask_token:
        tokens.append(Rule(f"{prefix}embeddings.mask_token", ("backbone/mask_token/table/embedding",)))
    if config.registers:
        tokens.append(learned_tokens(f"{prefix}embeddings.register_tokens", "backbone/register_tokens"))
    return Table(
        rules=(
            *tokens,
            *under(prefix, "backbone/", parts),
            *under(f"{prefix}encoder.layer.{{layer}}.", LAYERS, _BLOCK),
            *under("", "", CLASSIFIER if config.head == "image_classification" else {}),
        ),
        prefix=prefix,
        bare=config.head == "none",
    )


def _normalise(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the config with the feed-forward layers' width, which Transformers gives as a multiple of the width."""
    ratio, width = config.pop("mlp_ratio", 4), config.get("hidden_size", 768)
    if ratio is None or ratio <= 0:
        raise UserError(f"config.json: mlp_ratio = {ratio} is not a number above 0")
    if ratio * width != int(ratio * width):
        raise UserError(f"config.json: mlp_ratio = {ratio}: {ratio} x hidden_size {width} is no whole number")
    return config | {"intermediate_size": int(ratio * width)}


def _denormalise(config: dict[str, Any]) -> dict[str, Any]:
    ratio = config.pop("intermediate_size") / config["hidden_size"]
    return config | {"mlp_ratio": int(ratio) if ratio == int(ratio) else ratio}


_FIELDS = (
    *image_fields(1e-6),
    Field("intermediate_size", "mlp_width"),
    Field("layerscale_value", "layer_scale", 1.0),
)
_BACKBONE = ("apply_layernorm", "out_features", "out_indices", "reshape_hidden_states", "stage_names")
"""Fields of Transformers' backbone class alone, which detectors use."""
_PINNED = {"use_swiglu_ffn": False}


def _fits(config: Dinov2Config) -> bool:
    return config.pooling == "class_and_mean" and config.attention_bias


def _family(model_type: str, name: str, *fields: Field, registers: bool, **pinned: Any) -> Family:
    return Family(
        model_type=model_type,
        config=Dinov2Config,
        fields=(*_FIELDS, *fields),
        heads=classes(name, Dinov2Config.heads),
        table=_table,
        pinned=_PINNED | pinned,
        inert={"drop_path_rate": (0.0, 0)},
        harmless=(*WORDLESS, *_BACKBONE),
        spelled={"mlp_ratio": float},
        normalise=_normalise,
        denormalise=_denormalise,
        fits=lambda config: (
            _fits(config) and (config.registers > 0) == registers and (not registers or config.mask_token)
        ),
    )


FAMILIES = (
    _family(
        "dinov2",
        "Dinov2",
        Field("patch_size", "patch_size", 14),
        Field("use_mask_token", "mask_token", True),
        registers=False,
    ),
    _family(
        "dinov2_with_registers",
        "Dinov2WithRegisters",
        Field("patch_size", "patch_size", 16),
        Field("num_register_tokens", "registers", 4),
        registers=True,
    ),
)
