"""LLaMA's kin in Transformers: the fields, rotary positions and names of weights that their model types share."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from transformer.errors import UserError
from transformer.interop.engine import Table
from transformer.interop.hf_config import ACTIVATIONS, Field, checked
from transformer.interop.rules import Part, attention, decoder_head, dense, embedding, norm, under
from transformer.layers.positions import Llama3Scaling
from transformer.models.llama import LlamaConfig

# Fields that `with_rotary` and `one_window` take apart before they are read.
ROTARY = {"rope_theta": float, "rope_scaling": dict, "rope_parameters": dict, "layer_types": list}
SLIDING = {**ROTARY, "use_sliding_window": bool, "max_window_layers": int}

# Llama3Scaling's field -> theirs.
_SCALING = {
    "factor": "factor",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "original_context": "original_max_position_embeddings",
}

FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("max_position_embeddings", "context_length"),
    Field("hidden_size", "width"),
    Field("num_hidden_layers", "num_layers"),
    Field("num_attention_heads", "num_heads"),
    Field("num_key_value_heads", "num_kv_heads"),
    Field("head_dim", "head_width"),
    Field("intermediate_size", "mlp_width"),
    Field("hidden_act", "activation", "silu", ACTIVATIONS),
    Field("rms_norm_eps", "norm_epsilon", 1e-6),
    Field("rope_theta", "rotary_base"),
    Field("rope_scaling", "rotary_scaling"),
    Field("attention_dropout", "attention_dropout", 0.0),
    Field("tie_word_embeddings", "tie_embeddings", False),
)
BIAS = Field("attention_bias", "attention_biases", False, {False: "none", True: "all"})
WINDOW = Field("sliding_window", "window")


def with_default(theirs: str, default: Any) -> tuple[Field, ...]:
    """Returns `FIELDS` where one of them has another default."""
    return tuple(dataclasses.replace(field, default=default) if field.theirs == theirs else field for field in FIELDS)


def one_value(model_type: str, **values: Any) -> tuple[Field, ...]:
    """Returns the fields of ours that have one value in a model type, which config.json does not mention."""
    return tuple(Field("model_type", ours, values={model_type: value}) for ours, value in values.items())


def attention_parts(config: LlamaConfig, *, norms: bool) -> dict[str, Part]:
    """Returns the modules of a layer's attention and its norms; `norms`: whether queries and keys have them."""
    projections = ("q_proj", "k_proj", "v_proj", "o_proj")
    query_key_norms = {
        "self_attn.q_norm": norm("attention/query_norm", bias=False),
        "self_attn.k_norm": norm("attention/key_norm", bias=False),
    }
    return {
        "input_layernorm": norm("attention_norm", bias=False),
        **attention("self_attn", "attention", projections, biases=config.attention_biases),
        **(query_key_norms if norms else {}),
        "post_attention_layernorm": norm("mlp_norm", bias=False),
    }


def dense_mlp(*, biases: bool) -> dict[str, Part]:
    """Returns the modules of a layer's dense feed-forward layers."""
    return {f"mlp.{name}_proj": dense(f"mlp/{name}", bias=biases) for name in ("gate", "up", "down")}


def _layer(config: LlamaConfig, sparse: bool, mixture: dict[str, Part]) -> dict[str, Part]:
    """Returns the modules of a layer; `mixture`: those of its experts, if it is sparse."""
    mlp = mixture if sparse else dense_mlp(biases=config.mlp_biases)
    return {**attention_parts(config, norms=config.head_norms), **mlp}


def table(config: LlamaConfig, *, answers: str = "transformer.", mixture: dict[str, Part] | None = None) -> Table:
    """Returns the table.

    Args:
      config: the architecture.
      answers: prefix of a question answerer's backbone.
      mixture: the modules of a layer's experts.
    """
    return stacked(config, lambda sparse: _layer(config, sparse, mixture or {}), answers=answers)


def stacked(config: Any, layer: Callable[[bool], dict[str, Part]], *, answers: str = "model.") -> Table:
    """Returns the table of embedding, layers in their stacks, last norm and head.

    Args:
      config: the architecture, with a `layout`.
      layer: whether a layer has experts -> its modules.
      answers: prefix of a question answerer's backbone.
    """
    prefix = {"none": "", "question_answering": answers}.get(config.head, "model.")
    head, aliases = decoder_head(config.head, tied=config.tie_embeddings, words=f"{prefix}embed_tokens.weight")
    layers = tuple(
        rule
        for path, sparse, numbers in config.layout.places()
        for rule in under(f"{prefix}layers.{{layer}}.", f"backbone/{path}", layer(sparse), numbers)
    )
    rules = (
        *under(prefix, "backbone/", {"embed_tokens": embedding("token_embedding")}),
        *layers,
        *under(prefix, "backbone/", {"norm": norm("final_norm", bias=False)}),
        *head,
    )
    # Old checkpoints hold the frequencies of the rotary positions as a buffer.
    ignored = (r".*layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)
    return Table(rules, prefix=prefix, aliases=aliases, ignored=ignored)


def _positive(rope: dict[str, Any], name: str) -> Any:
    """Removes a number from rope_scaling, and returns it."""
    value = checked(f"rope_scaling's {name}", rope.pop(name), int if name == _SCALING["original_context"] else float)
    if value <= 0:
        raise UserError(f"config.json: rope_scaling's {name} is {value}: it must be above 0")
    return value


def _llama3(rope: dict[str, Any], config: dict[str, Any]) -> Llama3Scaling:
    rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    missing = [theirs for theirs in _SCALING.values() if theirs not in rope]
    if missing:
        raise UserError(f"config.json: rope_scaling lacks {', '.join(missing)}")
    return Llama3Scaling(**{ours: _positive(rope, theirs) for ours, theirs in _SCALING.items()})


Scaling = Callable[[dict[str, Any], dict[str, Any]], Any]
"""rope_scaling without its type, and config.json -> ours; takes what it reads out of the first."""
_LLAMA3: Mapping[str, Scaling] = MappingProxyType({"llama3": _llama3})


def with_rotary(
    config: dict[str, Any], *, base: float = 10000.0, scalings: Mapping[str, Scaling] = _LLAMA3
) -> dict[str, Any]:
    """Reads `rope_theta` and `rope_scaling`, or the newer `rope_parameters`; fills in sizes that follow from others.

    Args:
      config: the content of config.json; changed.
      base: rope_theta, where it is left out.
      scalings: rope_type -> the function that reads it.
    """
    scaling, parameters = config.pop("rope_scaling", None), config.pop("rope_parameters", None)
    rope = dict(scaling or parameters or {})
    config["rope_theta"] = checked("rope_theta", rope.pop("rope_theta", config.get("rope_theta", base)), float)
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)  # older than rope_type, and written beside it
    config["rope_scaling"] = None
    if kind in scalings:
        config["rope_scaling"] = scalings[kind](rope, config)
    elif kind != "default":
        known = ", ".join(("default", *scalings))
        raise UserError(f"config.json: rope_type = {kind!r} is not supported, only {known}")
    if rope:
        raise UserError(f"config.json: rope_scaling: unknown fields, which may change the model: {', '.join(rope)}")

    heads = config.get("num_attention_heads")
    if config.get("num_key_value_heads", ...) is None:
        config["num_key_value_heads"] = heads
    if config.get("head_dim") is None and heads and config.get("hidden_size") is not None:
        config["head_dim"] = config["hidden_size"] // heads
    return config


def without_rotary(config: dict[str, Any]) -> dict[str, Any]:
    """Writes the older spelling, which every version reads."""
    scaling = config["rope_scaling"]
    if scaling is not None:
        theirs = {theirs: getattr(scaling, ours) for ours, theirs in _SCALING.items()}
        config["rope_scaling"] = {"rope_type": "llama3", **theirs}
    return config


def one_window(config: dict[str, Any], window: int | None, first: int = 0) -> int | None:
    """Returns the window of every layer, and removes the list of the layers' kinds; refuses layers that differ.

    Args:
      config: the content of config.json.
      window: the window of the layers that slide.
      first: the first layer that slides, where there is no list.
    """
    sliding = 0 if window is None else (config.get("num_hidden_layers") or 0) - max(first, 0)
    slide = ["sliding_attention"] * (sliding > 0) + ["full_attention"] * (window is None or first > 0)
    kinds = {checked("layer_types", kind, str) for kind in config.pop("layer_types", None) or slide}
    if kinds <= {"full_attention"}:
        return None
    if kinds == {"sliding_attention"} and window is not None:
        return window
    raise UserError("config.json: layer_types, or a max_window_layers, by which layers differ are not supported")
