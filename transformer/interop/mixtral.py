"""Mixtral and Qwen3-MoE in Transformers: LLaMA's kin with experts. Files hold every expert's matrices by its number.

Both choose by the softmax over all experts. Mixtral's weights of the chosen always sum to 1, Qwen3-MoE's where
`norm_topk_prob` says so. The loss that balances the load is there for training alone.
"""

import functools
from typing import Any, get_args

from transformer.errors import UserError
from transformer.interop import experts
from transformer.interop.experts import ExpertsFields
from transformer.interop.family import Family, classes
from transformer.interop.hf_config import Field, checked
from transformer.interop.llama_parts import (
    BIAS,
    FIELDS,
    ROTARY,
    WINDOW,
    one_value,
    table,
    with_default,
    with_rotary,
    without_rotary,
)
from transformer.interop.rules import experts as expert_parts
from transformer.models.decoder import DecoderHead
from transformer.models.llama import LlamaConfig

SOFTMAX = {"scores": "softmax", "scale": 1.0, "groups": 1, "groups_per_token": 1, "selection_bias": False,
           "shared_experts": 0}  # fmt: skip
"""Fields of `ExpertsConfig` of a mixture that is nothing but a softmax and its largest values."""

_MIXTRAL = ExpertsFields(
    fields=(
        Field("num_local_experts", "num_experts", 8),
        Field("num_experts_per_tok", "experts_per_token", 2),
        Field("intermediate_size", "mlp_width"),
        Field("router_aux_loss_coef", "balance_loss", 0.001),
    ),
    always={**SOFTMAX, "normalize": True},
    shared=("intermediate_size",),
)
_QWEN3_MOE = ExpertsFields(
    fields=(
        Field("num_experts", "num_experts", 128),
        Field("num_experts_per_tok", "experts_per_token", 8),
        Field("moe_intermediate_size", "mlp_width", 768),
        Field("norm_topk_prob", "normalize", False),
        Field("router_aux_loss_coef", "balance_loss", 0.001),
    ),
    always=SOFTMAX,
    renames={"num_local_experts": "num_experts"},
)


def _from_mixtral(config: dict[str, Any]) -> dict[str, Any]:
    config.setdefault("sliding_window", None)
    return with_rotary(_MIXTRAL.read(config), base=1e6)


def _to_mixtral(config: dict[str, Any]) -> dict[str, Any]:
    return _MIXTRAL.write(without_rotary(config))


def _fits_mixtral(config: LlamaConfig) -> bool:
    mixture = config.experts
    return (
        _MIXTRAL.fits(mixture)
        and mixture is not None
        and mixture.mlp_width == config.mlp_width
        and (config.attention_biases, config.mlp_biases, config.head_norms) == ("none", False, False)
        and not config.dense_layers
    )


def _from_qwen3_moe(config: dict[str, Any]) -> dict[str, Any]:
    config.pop("max_window_layers", None)  # its layers are all alike
    slides = checked("use_sliding_window", config.pop("use_sliding_window", False), bool)
    config["sliding_window"] = config.get("sliding_window", 4096) if slides else None
    layers = config.get("num_hidden_layers") or 0
    step = checked("decoder_sparse_step", config.pop("decoder_sparse_step", 1), int)
    if step < 1:
        raise UserError(f"config.json: decoder_sparse_step is {step}: it must be at least 1")
    dense = [checked("mlp_only_layers", layer, int) for layer in config.pop("mlp_only_layers", None) or ()]
    config["mlp_only_layers"] = tuple(layer for layer in range(layers) if layer in dense or (layer + 1) % step)
    return with_rotary(_QWEN3_MOE.read(config))


def _to_qwen3_moe(config: dict[str, Any]) -> dict[str, Any]:
    slides = config["sliding_window"] is not None
    config = _QWEN3_MOE.write(without_rotary(config))
    return {**config, "use_sliding_window": slides, "mlp_only_layers": list(config["mlp_only_layers"])}


MIXTRAL = Family(
    model_type="mixtral",
    config=LlamaConfig,
    fields=(
        *with_default("rms_norm_eps", 1e-5),
        WINDOW,
        experts.FIELD,
        *one_value("mixtral", attention_biases="none", mlp_biases=False, head_norms=False, dense_layers=()),
    ),
    heads=classes("Mixtral", get_args(DecoderHead)),
    table=functools.partial(
        table, answers="model.", mixture=expert_parts("block_sparse_moe", "mlp", ("w1", "w3", "w2"))
    ),
    pinned={"router_jitter_noise": 0.0},  # multiplies the inputs of training with noise
    harmless=("output_router_logits",),  # whether training balances the load: balance_loss says it
    spelled={**ROTARY, **_MIXTRAL.spelled},
    normalise=_from_mixtral,
    denormalise=_to_mixtral,
    fits=_fits_mixtral,
)

QWEN3_MOE = Family(
    model_type="qwen3_moe",
    config=LlamaConfig,
    fields=(
        *FIELDS,
        WINDOW,
        BIAS,
        experts.FIELD,
        Field("mlp_only_layers", "dense_layers"),
        *one_value("qwen3_moe", mlp_biases=False, head_norms=True),
    ),
    heads=classes("Qwen3Moe", get_args(DecoderHead)),
    table=functools.partial(table, mixture=expert_parts("mlp", "mlp")),
    harmless=("output_router_logits",),
    spelled={
        **ROTARY,
        **_QWEN3_MOE.spelled,
        "use_sliding_window": bool,
        "max_window_layers": int,
        "decoder_sparse_step": int,
        "mlp_only_layers": list,
    },
    normalise=_from_qwen3_moe,
    denormalise=_to_qwen3_moe,
    fits=lambda config: (
        _QWEN3_MOE.fits(config.experts) and config.head_norms and not config.mlp_biases
        and config.attention_biases != "qkv"
    ),
)  # fmt: skip
