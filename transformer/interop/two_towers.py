"""Parts that the tables of CLIP and SigLIP share: a config.json of two, and a tower's layers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformer.errors import UserError
from transformer.interop import hf_config
from transformer.interop.engine import Rule
from transformer.interop.hf_config import ACTIVATIONS, Field
from transformer.interop.rules import Part, dense, embedding, norm, under

TOWERS = ("text", "vision")
SPELLED = {f"{tower}_config{ending}": dict for tower in TOWERS for ending in ("", "_dict")}
"""Fields of config.json that `nested` takes apart; `_dict`: what older files have beside the other."""

_BLOCK: dict[str, Part] = {
    **{
        f"self_attn.{theirs}": dense(f"attention/{ours}", inputs=2 if ours == "out" else 1)
        for theirs, ours in {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}.items()
    },
    "mlp.fc1": dense("mlp/up"),
    "mlp.fc2": dense("mlp/down"),
    "layer_norm1": norm("attention_norm"),
    "layer_norm2": norm("mlp_norm"),
}
"""The modules of a layer, in both towers."""
_TEXT: dict[str, Part] = {
    "embeddings.token_embedding": embedding("token_embedding"),
    "embeddings.position_embedding": embedding("position_embedding"),
    "final_layer_norm": norm("final_norm"),
}
IGNORED = (r"(text|vision)_model\.embeddings\.position_ids",)
"""`Table.ignored`: buffers of older files."""


def tower_rules(vision: Mapping[str, Part]) -> tuple[Rule, ...]:
    """Returns the rules of both towers; the argument is the tower of images beside its layers."""
    layers = "encoder.layers.{layer}."
    return (
        *under("vision_model.", "backbone/vision/", vision),
        *under(f"vision_model.{layers}", "backbone/vision/stack/layers/", _BLOCK),
        *under("text_model.", "backbone/text/", _TEXT),
        *under(f"text_model.{layers}", "backbone/text/stack/layers/", _BLOCK),
    )


def tower_fields(defaults: Mapping[str, Any]) -> tuple[Field, ...]:
    """Returns the fields of both towers; the argument is Transformers' defaults, by our names."""
    pairs = {
        "vision_config.image_size": "image_size",
        "vision_config.patch_size": "patch_size",
        "vision_config.num_channels": "channels",
        "vision_config.hidden_size": "width",
        "vision_config.num_hidden_layers": "num_layers",
        "vision_config.num_attention_heads": "num_heads",
        "vision_config.intermediate_size": "mlp_width",
        "vision_config.hidden_act": "activation",
        "vision_config.layer_norm_eps": "norm_epsilon",
        "vision_config.attention_dropout": "attention_dropout",
        "text_config.vocab_size": "vocab_size",
        "text_config.max_position_embeddings": "context_length",
        "text_config.hidden_size": "text_width",
        "text_config.num_hidden_layers": "text_layers",
        "text_config.num_attention_heads": "text_heads",
        "text_config.intermediate_size": "text_mlp_width",
        "text_config.hidden_act": "text_activation",
        "text_config.layer_norm_eps": "norm_epsilon",
        "text_config.attention_dropout": "attention_dropout",
    }
    activations = {name: ACTIVATIONS for name in pairs if name.endswith("hidden_act")}
    return tuple(Field(theirs, ours, defaults[ours], activations.get(theirs)) for theirs, ours in pairs.items())


def nested(fields: Sequence[Field], harmless: Sequence[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Returns the function from a config.json to one whose towers' fields stand beside the others, as "text_config.x".

    Args:
      fields: those that are mapped.
      harmless: further fields of either tower that change nothing.
    """

    def normalise(config: dict[str, Any]) -> dict[str, Any]:
        mapped = {field.theirs for field in fields}
        rules = hf_config.FieldRules((), {}, harmless=harmless)
        config = dict(config)
        for tower in TOWERS:
            inner, older = config.pop(f"{tower}_config", None), config.pop(f"{tower}_config_dict", None)
            inner = {**(inner or {}), **(older or {})}
            kind = f"{config.get('model_type')}_{tower}_model"
            if inner.get("model_type", kind) != kind:
                raise UserError(f"config.json: {tower}_config: model_type is {inner['model_type']!r}, not {kind!r}")
            for name, value in inner.items():
                full = f"{tower}_config.{name}"
                if full in mapped or not hf_config.changes_nothing(name, value, inner, rules):
                    config[full] = value
        return config

    return normalise


def split(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config.json whose towers' fields are nested again: the inverse of what `nested` returns."""
    outer = {name: value for name, value in config.items() if "." not in name}
    model_type = outer.pop("_model_type", None)
    for tower in TOWERS:
        inner = {name.split(".")[1]: value for name, value in config.items() if name.startswith(f"{tower}_config.")}
        outer[f"{tower}_config"] = ({"model_type": model_type} if model_type else {}) | inner
    return outer
