"""OLMoE in Transformers: LLaMA's names, norms over whole projections, and experts."""

from typing import Any

from transformer.interop import experts
from transformer.interop.engine import Table
from transformer.interop.experts import ExpertsFields
from transformer.interop.family import Family, classes
from transformer.interop.hf_config import Field
from transformer.interop.llama_parts import (
    BIAS,
    ROTARY,
    attention_parts,
    one_value,
    stacked,
    with_default,
    with_rotary,
    without_rotary,
)
from transformer.interop.mixtral import SOFTMAX
from transformer.interop.rules import experts as expert_parts
from transformer.models.olmoe import OlmoeConfig

_EXPERTS = ExpertsFields(
    fields=(
        Field("num_experts", "num_experts", 64),
        Field("num_experts_per_tok", "experts_per_token", 8),
        Field("intermediate_size", "mlp_width"),
        Field("norm_topk_prob", "normalize", False),
        Field("router_aux_loss_coef", "balance_loss", 0.01),
    ),
    always=SOFTMAX,
    shared=("intermediate_size",),
    renames={"num_local_experts": "num_experts"},
)
_HEADS = classes("Olmoe", ("language_model", "none"))
_ALWAYS = {"mlp_biases": False, "head_norms": False, "window": None, "dense_layers": ()}


def _from_olmoe(config: dict[str, Any]) -> dict[str, Any]:
    config.setdefault("num_key_value_heads", None)
    return with_rotary(_EXPERTS.read(config))


def _to_olmoe(config: dict[str, Any]) -> dict[str, Any]:
    return _EXPERTS.write(without_rotary(config))


def _fits(config: OlmoeConfig) -> bool:
    mixture = config.experts
    return (
        config.head in _HEADS
        and _EXPERTS.fits(mixture)
        and mixture is not None
        and mixture.mlp_width == config.mlp_width
        and config.attention_biases != "qkv"
        and config.head_width * config.num_heads == config.width  # the width of Transformers' norm of queries
        and all(getattr(config, ours) == value for ours, value in _ALWAYS.items())
    )


def _table(config: OlmoeConfig) -> Table:
    return stacked(config, lambda _: {**attention_parts(config, norms=True), **expert_parts("mlp", "mlp")})


OLMOE = Family(
    model_type="olmoe",
    config=OlmoeConfig,
    fields=(
        *with_default("rms_norm_eps", 1e-5),
        BIAS,
        Field("clip_qkv", "clip_qkv", None),
        experts.FIELD,
        *one_value("olmoe", **_ALWAYS),
    ),
    heads=_HEADS,
    table=_table,
    harmless=("output_router_logits",),
    spelled={**ROTARY, **_EXPERTS.spelled},
    normalise=_from_olmoe,
    denormalise=_to_olmoe,
    fits=_fits,
)

FAMILIES = (OLMOE,)
