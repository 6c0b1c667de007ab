"""DeepSeek-V3 in Transformers. Published files hold float8 weights, which are refused: save them as bfloat16 first.

They also hold a layer behind the last one (`model.layers.61`), which predicts a second token; Transformers' model has
none, and its tensors are left unread.
"""

import dataclasses
import re
from typing import Any

from transformer.errors import UserError
from transformer.interop import experts
from transformer.interop.engine import Rule, Table
from transformer.interop.experts import ExpertsFields
from transformer.interop.family import Family, classes
from transformer.interop.hf_config import ACTIVATIONS, Field, Same, checked
from transformer.interop.llama_parts import dense_mlp, stacked, with_rotary
from transformer.interop.rules import Part, dense, norm
from transformer.interop.rules import experts as expert_parts
from transformer.layers.positions import YarnScaling
from transformer.models.deepseek import DeepseekConfig

_EXPERTS = ExpertsFields(
    fields=(
        Field("n_routed_experts", "num_experts", 256),
        Field("num_experts_per_tok", "experts_per_token", 8),
        Field("moe_intermediate_size", "mlp_width", 2048),
        Field("n_group", "groups", 8),
        Field("topk_group", "groups_per_token", 4),
        Field("norm_topk_prob", "normalize", True),
        Field("routed_scaling_factor", "scale", 2.5),
        Field("n_shared_experts", "shared_experts", 1),
        Field("aux_loss_alpha", "balance_loss", 0.0),
    ),
    always={"scores": "sigmoid", "selection_bias": True},
    renames={"num_local_experts": "n_routed_experts"},
)

# YarnScaling's field -> theirs, and its default there; `...`: it has none.
_YARN: dict[str, tuple[str, Any]] = {
    "factor": ("factor", ...),
    "original_context": ("original_max_position_embeddings", ...),
    "fast_turns": ("beta_fast", 32.0),
    "slow_turns": ("beta_slow", 1.0),
    "mscale": ("mscale", 0.0),
    "mscale_all_dim": ("mscale_all_dim", 0.0),
}


def _yarn(rope: dict[str, Any], config: dict[str, Any]) -> YarnScaling:
    """Takes the fields of YaRN out of rope_scaling."""
    missing = [theirs for theirs, default in _YARN.values() if default is ... and theirs not in rope]
    if missing:
        raise UserError(f"config.json: rope_scaling lacks {', '.join(missing)}")
    kinds: dict[str, Any] = {"original_context": int}
    values = {
        ours: checked(f"rope_scaling's {theirs}", rope.pop(theirs, default), kinds.get(ours, float))
        for ours, (theirs, default) in _YARN.items()
    }
    for ours, (theirs, _) in _YARN.items():
        if values[ours] <= 0 and not theirs.startswith("mscale"):
            raise UserError(f"config.json: rope_scaling's {theirs} is {values[ours]}: it must be above 0")
    if (values["mscale"] == 0) != (values["mscale_all_dim"] == 0):
        raise UserError("config.json: rope_scaling with one of mscale and mscale_all_dim is not supported, only both")
    if values["mscale_all_dim"] == 0:  # queries and keys then grow as the paper has it
        values["mscale"] = 1.0
    return YarnScaling(**values)


def _from_deepseek(config: dict[str, Any]) -> dict[str, Any]:
    config.pop("num_nextn_predict_layers", None)
    config.pop("num_mtp_layers", None)
    parts = [config.get(name, default) for name, default in (("qk_nope_head_dim", 128), ("qk_rope_head_dim", 64))]
    whole = config.pop("qk_head_dim", None)
    if whole is not None and whole != sum(parts):
        raise UserError(f"config.json: qk_head_dim = {whole} is not the sum of qk_nope_head_dim and qk_rope_head_dim")
    if config.get("head_dim") is None:
        config["head_dim"] = parts[1]
    return with_rotary(_EXPERTS.read(config), scalings={"yarn": _yarn})


def _to_deepseek(config: dict[str, Any]) -> dict[str, Any]:
    config = _EXPERTS.write(config)
    scaling: YarnScaling | None = config["rope_scaling"]
    if scaling is not None:
        left_out = ("mscale", "mscale_all_dim") if scaling.mscale_all_dim == 0 else ()
        values = {theirs: getattr(scaling, ours) for ours, (theirs, _) in _YARN.items() if theirs not in left_out}
        config["rope_scaling"] = {"rope_type": "yarn", **values}
    return {**config, "num_key_value_heads": config["num_attention_heads"], "num_nextn_predict_layers": 0}


def _fits(config: DeepseekConfig) -> bool:
    scaling = config.rotary_scaling
    plain = scaling is None or (scaling.mscale > 0) is (scaling.mscale_all_dim > 0)
    paper = scaling is not None and scaling.mscale == 1.0 and scaling.mscale_all_dim == 0.0
    return config.head in _HEADS and _EXPERTS.fits(config.experts) and (plain or paper)


def _layer(config: DeepseekConfig, sparse: bool) -> dict[str, Part]:
    """Returns the modules of a layer."""
    if config.query_rank is None:
        queries = {"self_attn.q_proj": dense("attention/query", bias=False)}
    else:
        queries = {
            "self_attn.q_a_proj": dense("attention/query_latent", bias=False),
            "self_attn.q_a_layernorm": norm("attention/query_latent_norm", bias=False),
            "self_attn.q_b_proj": dense("attention/query", bias=False),
        }
    mixture = expert_parts("mlp", "mlp")
    mixture["mlp.gate"] += (Rule("e_score_correction_bias", ("mlp/router/bias",)),)
    if config.experts.shared_experts:
        shared = {f"mlp.shared_experts.{name}_proj": dense(f"mlp/shared/{name}", bias=False) for name in _MATRICES}
        mixture = {**mixture, **shared}
    return {
        "input_layernorm": norm("attention_norm", bias=False),
        **queries,
        "self_attn.kv_a_proj_with_mqa": dense("attention/latent", "attention/rotary_key", bias=False),
        "self_attn.kv_a_layernorm": norm("attention/latent_norm", bias=False),
        "self_attn.kv_b_proj": dense("attention/expansion", bias=False),
        "self_attn.o_proj": dense("attention/out", inputs=2, bias=False),
        "post_attention_layernorm": norm("mlp_norm", bias=False),
        **(mixture if sparse else dense_mlp(biases=False)),
    }


_MATRICES = ("gate", "up", "down")


def _table(config: DeepseekConfig) -> Table:
    table = stacked(config, lambda sparse: _layer(config, sparse))
    second_token = rf"{re.escape(table.prefix)}layers\.{config.num_layers}\..*"
    return dataclasses.replace(table, ignored=(*table.ignored, second_token))


_HEADS = classes("DeepseekV3", ("language_model", "sequence_classification", "token_classification", "none"))

DEEPSEEK_V3 = Family(
    model_type="deepseek_v3",
    config=DeepseekConfig,
    fields=(
        Field("vocab_size", "vocab_size"),
        Field("max_position_embeddings", "context_length"),
        Field("hidden_size", "width"),
        Field("num_hidden_layers", "num_layers"),
        Field("num_attention_heads", "num_heads"),
        Field("intermediate_size", "mlp_width"),
        Field("first_k_dense_replace", "first_dense", 3),
        Field("q_lora_rank", "query_rank", 1536),
        Field("kv_lora_rank", "latent_width", 512),
        Field("qk_nope_head_dim", "head_width", 128),
        Field("qk_rope_head_dim", "rotary_width", 64),
        Field("v_head_dim", "value_width", 128),
        Field("hidden_act", "activation", "silu", ACTIVATIONS),
        Field("rms_norm_eps", "norm_epsilon", 1e-6),
        Field("rope_theta", "rotary_base"),
        Field("rope_scaling", "rotary_scaling"),
        Field("rope_interleave", "rotary_interleaved", True),
        Field("attention_dropout", "attention_dropout", 0.0),
        Field("tie_word_embeddings", "tie_embeddings", False),
        experts.FIELD,
    ),
    heads=_HEADS,
    table=_table,
    pinned={
        "attention_bias": False,
        "moe_layer_freq": 1,
        "pretraining_tp": 1,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    },
    inert={"head_dim": (Same("qk_rope_head_dim"),), "num_key_value_heads": (Same("num_attention_heads"),)},
    harmless=(
        "auto_map",  # the code that was published beside the weights
        "ep_size",  # devices
        "output_router_logits",
        "seq_aux",  # whether training balances the load within each sequence
    ),
    spelled={
        "rope_theta": float,
        "rope_scaling": dict,
        "rope_parameters": dict,
        "num_nextn_predict_layers": int,
        "num_mtp_layers": int,
        "qk_head_dim": int,
        **_EXPERTS.spelled,
    },
    normalise=_from_deepseek,
    denormalise=_to_deepseek,
    fits=_fits,
)

FAMILIES = (DEEPSEEK_V3,)
