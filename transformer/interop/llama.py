"""LLaMA, Mistral, Qwen2 and Qwen3 in Transformers: four model types, one architecture of ours.

The model type of an architecture follows from parts that only one of them has: Qwen2's biases, Qwen3's norms of heads,
Mistral's window. Meta's own files pair the halves of a head otherwise; only Transformers' format is read.
"""

import functools
from typing import Any, get_args

from transformer.errors import UserError
from transformer.interop.engine import Table
from transformer.interop.family import Family, classes
from transformer.interop.flax_names import FlaxClasses
from transformer.interop.hf_config import ACTIVATIONS, Field, checked
from transformer.interop.rules import LAYERS, Part, attention, decoder_head, dense, embedding, norm, under
from transformer.layers.positions import Llama3Scaling
from transformer.models.decoder import DecoderHead
from transformer.models.llama import LlamaConfig

# Fields that `_with_rotary` and `_one_window` take apart before they are read.
_ROTARY = {"rope_theta": float, "rope_scaling": dict, "rope_parameters": dict, "layer_types": list}
_SLIDING = {**_ROTARY, "use_sliding_window": bool, "max_window_layers": int}

# Llama3Scaling's field -> theirs.
_SCALING = {
    "factor": "factor",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "original_context": "original_max_position_embeddings",
}

_FIELDS = (
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
_BIAS = Field("attention_bias", "attention_biases", False, {False: "none", True: "all"})
_WINDOW = Field("sliding_window", "window")


_ALWAYS: dict[str, dict[str, Any]] = {
    "llama": {"window": None, "head_norms": False},
    "mistral": {"attention_biases": "none", "mlp_biases": False, "head_norms": False},
    "qwen2": {"attention_biases": "qkv", "mlp_biases": False, "head_norms": False},
    "qwen3": {"mlp_biases": False, "head_norms": True},
}
"""Model type -> fields of ours that have one value in it, which config.json does not mention."""


def _always(model_type: str) -> list[Field]:
    return [Field("model_type", ours, values={model_type: value}) for ours, value in _ALWAYS[model_type].items()]


def _is(model_type: str, config: LlamaConfig) -> bool:
    return all(getattr(config, ours) == value for ours, value in _ALWAYS[model_type].items())


def _layer(config: LlamaConfig) -> dict[str, Part]:
    """Returns the modules of a layer."""
    projections = ("q_proj", "k_proj", "v_proj", "o_proj")
    head_norms = {
        "self_attn.q_norm": norm("attention/query_norm", bias=False),
        "self_attn.k_norm": norm("attention/key_norm", bias=False),
    }
    return {
        "input_layernorm": norm("attention_norm", bias=False),
        **attention("self_attn", "attention", projections, biases=config.attention_biases),
        **(head_norms if config.head_norms else {}),
        "post_attention_layernorm": norm("mlp_norm", bias=False),
        "mlp.gate_proj": dense("mlp/gate", bias=config.mlp_biases),
        "mlp.up_proj": dense("mlp/up", bias=config.mlp_biases),
        "mlp.down_proj": dense("mlp/down", bias=config.mlp_biases),
    }


def _table(config: LlamaConfig, *, answers: str = "transformer.") -> Table:
    """Returns the table; `answers` is the prefix of a question answerer's backbone."""
    prefix = {"none": "", "question_answering": answers}.get(config.head, "model.")
    head, aliases = decoder_head(config.head, tied=config.tie_embeddings, words=f"{prefix}embed_tokens.weight")
    rules = (
        *under(prefix, "backbone/", {"embed_tokens": embedding("token_embedding")}),
        *under(f"{prefix}layers.{{layer}}.", LAYERS, _layer(config)),
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


def _with_rotary(config: dict[str, Any]) -> dict[str, Any]:
    """Reads `rope_theta` and `rope_scaling`, or the newer `rope_parameters`; fills in fields that follow from sizes."""
    scaling, parameters = config.pop("rope_scaling", None), config.pop("rope_parameters", None)
    rope = dict(scaling or parameters or {})
    config["rope_theta"] = checked("rope_theta", rope.pop("rope_theta", config.get("rope_theta", 10000.0)), float)
    kind = rope.pop("rope_type", rope.pop("type", "default"))
    rope.pop("type", None)  # older than rope_type, and written beside it
    config["rope_scaling"] = None
    if kind == "llama3":
        rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
        missing = [theirs for theirs in _SCALING.values() if theirs not in rope]
        if missing:
            raise UserError(f"config.json: rope_scaling lacks {', '.join(missing)}")
        config["rope_scaling"] = Llama3Scaling(**{ours: _positive(rope, theirs) for ours, theirs in _SCALING.items()})
    elif kind != "default":
        raise UserError(f"config.json: rope_type = {kind!r} is not supported, only default, llama3")
    if rope:
        raise UserError(f"config.json: rope_scaling: unknown fields, which may change the model: {', '.join(rope)}")

    heads = config.get("num_attention_heads")
    if config.get("num_key_value_heads", ...) is None:
        config["num_key_value_heads"] = heads
    if config.get("head_dim") is None and heads and config.get("hidden_size") is not None:
        config["head_dim"] = config["hidden_size"] // heads
    return config


def _without_rotary(config: dict[str, Any]) -> dict[str, Any]:
    """Writes the older spelling, which every version reads."""
    scaling = config["rope_scaling"]
    if scaling is not None:
        theirs = {theirs: getattr(scaling, ours) for ours, theirs in _SCALING.items()}
        config["rope_scaling"] = {"rope_type": "llama3", **theirs}
    return config


def _one_window(config: dict[str, Any], window: int | None, first: int = 0) -> int | None:
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


def _from_llama(config: dict[str, Any]) -> dict[str, Any]:
    config.setdefault("num_key_value_heads", None)
    _one_window(config, None)
    return _with_rotary(config)


def _from_mistral(config: dict[str, Any]) -> dict[str, Any]:
    window = config.setdefault("sliding_window", 4096)
    if _one_window(config, window) != window:  # Transformers' Mistral slides whatever the list says
        raise UserError("config.json: layer_types of full_attention and a sliding_window are not supported")
    return _with_rotary(config)


def _from_qwen(config: dict[str, Any]) -> dict[str, Any]:
    slides = checked("use_sliding_window", config.pop("use_sliding_window", False), bool)
    first = checked("max_window_layers", config.pop("max_window_layers", 28), int)
    window = config.get("sliding_window", 4096) if slides else None
    config["sliding_window"] = _one_window(config, window, first)
    if config["model_type"] == "qwen3":
        config.setdefault("head_dim", 128)
    return _with_rotary(config)


def _to_qwen(config: dict[str, Any]) -> dict[str, Any]:
    slides = config["sliding_window"] is not None
    first = 0 if slides else config["num_hidden_layers"]
    return _without_rotary({**config, "use_sliding_window": slides, "max_window_layers": first})


def _not_in_flax(config: LlamaConfig) -> str:
    """Returns what the Flax classes, which read fewer fields of config.json, would compute otherwise; else empty."""
    if config.rotary_base != 10000.0 or config.rotary_scaling is not None:
        return "knows no rotary positions but those of base 10000"
    if config.head_width * config.num_heads != config.width:
        return "knows no width of heads but the model's divided by their number"
    if config.mlp_biases:
        return "has no biases in the feed-forward layers"
    if config.window is not None and config.window < config.context_length:
        return "looks one token further back than sliding_window says"
    return ""


LLAMA = Family(
    model_type="llama",
    config=LlamaConfig,
    fields=(*_FIELDS, _BIAS, Field("mlp_bias", "mlp_biases", False), *_always("llama")),
    heads=classes("Llama", get_args(DecoderHead)),
    table=_table,
    pinned={"pretraining_tp": 1},  # otherwise sums are taken in parts
    harmless=("is_llama_config", "max_sequence_length", "rope_interleaved", "transformers.js_config"),  # read by nobody
    spelled=_ROTARY,
    normalise=_from_llama,
    denormalise=_without_rotary,
    # Transformers' own check of the config, also where the width of heads is given.
    fits=lambda config: (
        _is("llama", config) and config.attention_biases != "qkv" and config.width % config.num_heads == 0
    ),
    flax=FlaxClasses(heads=("language_model", "none"), scale="weight", ties=False, refusal=_not_in_flax),
)

MISTRAL = Family(
    model_type="mistral",
    config=LlamaConfig,
    fields=(*_FIELDS, _WINDOW, *_always("mistral")),
    heads=classes("Mistral", get_args(DecoderHead)),
    table=functools.partial(_table, answers="model."),
    spelled=_ROTARY,
    normalise=_from_mistral,
    denormalise=_without_rotary,
    fits=functools.partial(_is, "mistral"),
    flax=FlaxClasses(heads=("language_model", "none"), scale="weight", ties=False, refusal=_not_in_flax),
)

QWEN2 = Family(
    model_type="qwen2",
    config=LlamaConfig,
    fields=(*_FIELDS, _WINDOW, *_always("qwen2")),
    heads=classes("Qwen2", get_args(DecoderHead)),
    table=_table,
    pinned={"use_mrope": False},  # Qwen2-VL's
    spelled=_SLIDING,
    normalise=_from_qwen,
    denormalise=_to_qwen,
    fits=functools.partial(_is, "qwen2"),
)

QWEN3 = Family(
    model_type="qwen3",
    config=LlamaConfig,
    fields=(*_FIELDS, _WINDOW, _BIAS, *_always("qwen3")),
    heads=classes("Qwen3", get_args(DecoderHead)),
    table=_table,
    spelled=_SLIDING,
    normalise=_from_qwen,
    denormalise=_to_qwen,
    fits=lambda config: _is("qwen3", config) and config.attention_biases != "qkv",
)

FAMILIES = (LLAMA, MISTRAL, QWEN2, QWEN3)
