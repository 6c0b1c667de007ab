"""LLaMA, Mistral, Qwen2 and Qwen3 in Transformers, and Mixtral and Qwen3-MoE: model types of one architecture of ours.

The model type of an architecture follows from parts that only one of them has: Qwen2's biases, Qwen3's norms of heads,
Mistral's window, the others' experts. Meta's own files pair the halves of a head otherwise; only Transformers' format
is read.
"""

import functools
from typing import Any, get_args

from transformer.errors import UserError
from transformer.interop.family import Family, classes
from transformer.interop.flax_names import FlaxClasses
from transformer.interop.hf_config import Field, checked
from transformer.interop.llama_parts import (
    BIAS,
    FIELDS,
    ROTARY,
    SLIDING,
    WINDOW,
    one_value,
    one_window,
    table,
    with_rotary,
    without_rotary,
)
from transformer.interop.mixtral import MIXTRAL, QWEN3_MOE
from transformer.models.decoder import DecoderHead
from transformer.models.llama import LlamaConfig

_ALWAYS: dict[str, dict[str, Any]] = {
    "llama": {"window": None, "head_norms": False},
    "mistral": {"attention_biases": "none", "mlp_biases": False, "head_norms": False},
    "qwen2": {"attention_biases": "qkv", "mlp_biases": False, "head_norms": False},
    "qwen3": {"mlp_biases": False, "head_norms": True},
}
"""Model type of dense layers -> fields of ours that have one value in it, which config.json does not mention."""
_DENSE = {"experts": None, "dense_layers": ()}


def _always(model_type: str) -> tuple[Field, ...]:
    return one_value(model_type, **_ALWAYS[model_type], **_DENSE)


def _is(model_type: str, config: LlamaConfig) -> bool:
    return all(getattr(config, ours) == value for ours, value in {**_ALWAYS[model_type], **_DENSE}.items())


def _from_llama(config: dict[str, Any]) -> dict[str, Any]:
    config.setdefault("num_key_value_heads", None)
    one_window(config, None)
    return with_rotary(config)


def _from_mistral(config: dict[str, Any]) -> dict[str, Any]:
    window = config.setdefault("sliding_window", 4096)
    if one_window(config, window) != window:  # Transformers' Mistral slides whatever the list says
        raise UserError("config.json: layer_types of full_attention and a sliding_window are not supported")
    return with_rotary(config)


def _from_qwen(config: dict[str, Any]) -> dict[str, Any]:
    slides = checked("use_sliding_window", config.pop("use_sliding_window", False), bool)
    first = checked("max_window_layers", config.pop("max_window_layers", 28), int)
    window = config.get("sliding_window", 4096) if slides else None
    config["sliding_window"] = one_window(config, window, first)
    if config["model_type"] == "qwen3":
        config.setdefault("head_dim", 128)
    return with_rotary(config)


def _to_qwen(config: dict[str, Any]) -> dict[str, Any]:
    slides = config["sliding_window"] is not None
    first = 0 if slides else config["num_hidden_layers"]
    return without_rotary({**config, "use_sliding_window": slides, "max_window_layers": first})


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
    fields=(*FIELDS, BIAS, Field("mlp_bias", "mlp_biases", False), *_always("llama")),
    heads=classes("Llama", get_args(DecoderHead)),
    table=table,
    pinned={"pretraining_tp": 1},  # otherwise sums are taken in parts
    harmless=("is_llama_config", "max_sequence_length", "rope_interleaved", "transformers.js_config"),  # read by nobody
    spelled=ROTARY,
    normalise=_from_llama,
    denormalise=without_rotary,
    # Transformers' own check of the config, also where the width of heads is given.
    fits=lambda config: (
        _is("llama", config) and config.attention_biases != "qkv" and config.width % config.num_heads == 0
    ),
    flax=FlaxClasses(heads=("language_model", "none"), scale="weight", ties=False, refusal=_not_in_flax),
)

MISTRAL = Family(
    model_type="mistral",
    config=LlamaConfig,
    fields=(*FIELDS, WINDOW, *_always("mistral")),
    heads=classes("Mistral", get_args(DecoderHead)),
    table=functools.partial(table, answers="model."),
    spelled=ROTARY,
    normalise=_from_mistral,
    denormalise=without_rotary,
    fits=functools.partial(_is, "mistral"),
    flax=FlaxClasses(heads=("language_model", "none"), scale="weight", ties=False, refusal=_not_in_flax),
)

QWEN2 = Family(
    model_type="qwen2",
    config=LlamaConfig,
    fields=(*FIELDS, WINDOW, *_always("qwen2")),
    heads=classes("Qwen2", get_args(DecoderHead)),
    table=table,
    pinned={"use_mrope": False},  # Qwen2-VL's
    spelled=SLIDING,
    normalise=_from_qwen,
    denormalise=_to_qwen,
    fits=functools.partial(_is, "qwen2"),
)

QWEN3 = Family(
    model_type="qwen3",
    config=LlamaConfig,
    fields=(*FIELDS, WINDOW, BIAS, *_always("qwen3")),
    heads=classes("Qwen3", get_args(DecoderHead)),
    table=table,
    spelled=SLIDING,
    normalise=_from_qwen,
    denormalise=_to_qwen,
    fits=lambda config: _is("qwen3", config) and config.attention_biases != "qkv",
)

FAMILIES = (LLAMA, MISTRAL, QWEN2, QWEN3, MIXTRAL, QWEN3_MOE)
