"""CLIP in Transformers: `CLIPModel`."""

from typing import Any

from transformer.interop import two_towers
from transformer.interop.engine import Rule, Table
from transformer.interop.family import Family
from transformer.interop.flax_names import FlaxClasses
from transformer.interop.hf_config import Field
from transformer.interop.images import WORDLESS, patch_projection
from transformer.interop.rules import dense, embedding, norm, under
from transformer.interop.transforms import FLAT
from transformer.models.clip import ClipConfig


def _table(config: ClipConfig) -> Table:
    """Returns the names of an architecture's weights."""
    vision = {
        "embeddings.patch_embedding": patch_projection("patch_embedding", config.patch_size, bias=False),
        "embeddings.position_embedding": embedding("position_embedding/table"),
        "pre_layrnorm": norm("embedding_norm"),
        "post_layernorm": norm("final_norm"),
    }
    projections = {
        "visual_projection": dense("image_projection", bias=False),
        "text_projection": dense("text_projection", bias=False),
    }
    return Table(
        rules=(
            Rule("vision_model.embeddings.class_embedding", ("backbone/vision/class_token/table/embedding",), FLAT),
            *two_towers.tower_rules(vision),
            *under("", "", projections),
            Rule("logit_scale", ("similarity/scale",)),
        ),
        ignored=two_towers.IGNORED,
    )


_DEFAULTS = ClipConfig()
_END = Field("text_config.eos_token_id", "end_id", _DEFAULTS.end_id)
_FIELDS = (
    *two_towers.tower_fields(vars(_DEFAULTS)),
    Field("projection_dim", "projection_width", 512),
    Field("logit_scale_init_value", "initial_scale", 2.6592),
    _END,
)
_OLD_END = 2
"""What older files have as the end of a text: their model then reads the text's vector at the highest id."""
_HARMLESS = (*WORDLESS, "initializer_factor")
_unnested = two_towers.nested(_FIELDS, (*_HARMLESS, "projection_dim", "dropout"))


def _normalise(config: dict[str, Any]) -> dict[str, Any]:
    config = _unnested(config)
    if config.get(_END.theirs) == _OLD_END:
        config[_END.theirs] = None
    return config


def _denormalise(config: dict[str, Any]) -> dict[str, Any]:
    end = config[_END.theirs]
    # The towers' own classes project too, to a width of their own field.
    widths = {f"{tower}_config.projection_dim": config["projection_dim"] for tower in two_towers.TOWERS}
    special = {"text_config.bos_token_id": None, "text_config.pad_token_id": None}
    return two_towers.split({**config, **widths, **special, _END.theirs: _OLD_END if end is None else end})


FAMILIES = (
    Family(
        model_type="clip",
        config=ClipConfig,
        fields=_FIELDS,
        heads={"contrastive": "CLIPModel"},
        table=_table,
        harmless=_HARMLESS,
        spelled=two_towers.SPELLED,
        normalise=_normalise,
        denormalise=_denormalise,
        fits=lambda config: config.end_id != _OLD_END,
        flax=FlaxClasses(heads=("contrastive",)),
    ),
)
