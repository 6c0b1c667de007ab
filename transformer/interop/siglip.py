"""SigLIP in Transformers: `SiglipModel`, as which SigLIP 2 of a fixed resolution comes too."""

from typing import Any

from transformer.interop import two_towers
from transformer.interop.engine import Rule, Table
from transformer.interop.family import Family
from transformer.interop.hf_config import Same
from transformer.interop.images import WORDLESS, patch_projection
from transformer.interop.rules import dense, embedding, norm, under
from transformer.interop.transforms import FIRST_OF_ONE, FLAT, fused, kernel
from transformer.models.siglip import SiglipConfig


def _table(config: SiglipConfig) -> Table:
    """Returns the names of an architecture's weights."""
    vision = {
        "embeddings.patch_embedding": patch_projection("patch_embedding", config.patch_size),
        "embeddings.position_embedding": embedding("position_embedding/table"),
        "post_layernorm": norm("final_norm"),
    }
    pooler = {
        "attention.out_proj": dense("attention/out", inputs=2),
        "layernorm": norm("norm"),
        "mlp.fc1": dense("mlp/up"),
        "mlp.fc2": dense("mlp/down"),
    }
    projections = [f"pooler/attention/{name}" for name in ("query", "key", "value")]
    return Table(
        rules=(
            *two_towers.tower_rules(vision),
            Rule("vision_model.head.probe", ("pooler/probe/table/embedding",), FIRST_OF_ONE),
            Rule(
                "vision_model.head.attention.in_proj_weight",
                tuple(f"{path}/kernel" for path in projections),
                fused(kernel(transposed=True), axis=0),
            ),
            Rule(
                "vision_model.head.attention.in_proj_bias",
                tuple(f"{path}/bias" for path in projections),
                fused(FLAT),
            ),
            *under("vision_model.head.", "pooler/", pooler),
            *under("text_model.", "", {"head": dense("text_projection")}),
            Rule("logit_scale", ("similarity/scale",), FLAT),
            Rule("logit_bias", ("similarity/bias",), FLAT),
        ),
        ignored=two_towers.IGNORED,
    )


_TANH = "gelu_pytorch_tanh"
_FIELDS = two_towers.tower_fields(vars(SiglipConfig()) | {"activation": _TANH, "text_activation": _TANH})
_TEXT_VECTOR = "text_config.projection_size"
_HARMLESS = (*WORDLESS, "initializer_factor")
_unnested = two_towers.nested(_FIELDS, _HARMLESS)


def _normalise(config: dict[str, Any]) -> dict[str, Any]:
    config = _unnested(config)
    config.setdefault(_TEXT_VECTOR, config.get("text_config.hidden_size", 768))
    return config


def _denormalise(config: dict[str, Any]) -> dict[str, Any]:
    # By default the ids of another vocabulary.
    special = {f"text_config.{name}_token_id": None for name in ("bos", "eos", "pad")}
    return two_towers.split({**config, **special, _TEXT_VECTOR: config["vision_config.hidden_size"]})


FAMILIES = (
    Family(
        model_type="siglip",
        config=SiglipConfig,
        fields=_FIELDS,
        heads={"contrastive": "SiglipModel"},
        table=_table,
        pinned={"vision_config.vision_use_head": True},
        inert={_TEXT_VECTOR: (Same("vision_config.hidden_size"),)},
        harmless=_HARMLESS,
        spelled=two_towers.SPELLED,
        normalise=_normalise,
        denormalise=_denormalise,
    ),
)
