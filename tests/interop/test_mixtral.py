"""Mixtral, Qwen3-MoE and OLMoE against Transformers' on random weights, in odd shapes, and there and back."""

import dataclasses

import flax.linen as nn
import jax
import ml_dtypes
import numpy as np
import pytest

import configs
from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop import families
from transformer.interop.llama import LLAMA
from transformer.interop.mixtral import MIXTRAL, QWEN3_MOE
from transformer.interop.olmoe import OLMOE
from transformer.layers.experts_config import ExpertsConfig
from transformer.layers.positions import Llama3Scaling
from transformer.models.llama import LlamaConfig
from transformer.models.olmoe import OlmoeConfig

from . import decoders, parity

EXPERTS = ExpertsConfig(num_experts=5, experts_per_token=2, mlp_width=13, balance_loss=0.02)
_SIZES = {
    "vocab_size": 61, "context_length": 32, "width": 30, "num_layers": 2, "num_heads": 5, "num_kv_heads": 5,
    "head_width": 6, "rotary_base": 1e4,
}  # fmt: skip
SMALL = LlamaConfig(**_SIZES, mlp_width=13, experts=EXPERTS)
OLMOE_SMALL = OlmoeConfig(**_SIZES, mlp_width=13, experts=dataclasses.replace(EXPERTS, normalize=False))
_QWEN3 = {"head_norms": True, "mlp_width": 37, "num_heads": 6, "num_kv_heads": 3}
# Name -> family, what differs. Every head is somewhere.
SHAPES = {
    "mixtral, grouped, window": (MIXTRAL, {"window": 5, "num_heads": 6, "num_kv_heads": 3, "head_width": 8}),
    "mixtral, one expert of seven, answers": (
        MIXTRAL,
        {
            "num_layers": 3, "num_heads": 3, "num_kv_heads": 1, "activation": "gelu", "head": "question_answering",
            "experts": ExpertsConfig(num_experts=7, experts_per_token=1, mlp_width=13),
        },
    ),
    "mixtral, all experts, sequences": (
        MIXTRAL,
        {
            "num_layers": 1, "head": "sequence_classification", "num_labels": 3,
            "experts": ExpertsConfig(num_experts=3, experts_per_token=3, mlp_width=13),
        },
    ),
    "qwen3_moe, not normalised": (
        QWEN3_MOE, {**_QWEN3, "experts": dataclasses.replace(EXPERTS, normalize=False, experts_per_token=3)},
    ),
    "qwen3_moe, every second layer dense, tied": (
        QWEN3_MOE, {**_QWEN3, "num_layers": 4, "dense_layers": (0, 2), "tie_embeddings": True},
    ),
    "qwen3_moe, runs of layers, biases, tokens": (
        QWEN3_MOE,
        {
            **_QWEN3, "num_layers": 5, "dense_layers": (0, 1, 4), "attention_biases": "all", "window": 6,
            "head": "token_classification", "num_labels": 2,
        },
    ),
    "olmoe, clipped": (OLMOE, {"clip_qkv": 0.7, "num_layers": 3}),
    "olmoe, grouped, biases, normalised": (
        OLMOE,
        {
            "num_kv_heads": 1, "attention_biases": "all", "experts": EXPERTS, "tie_embeddings": True,
            "rotary_scaling": Llama3Scaling(4.0, 1.0, 4.0, 16),
        },
    ),
    "olmoe, one layer, backbone": (OLMOE, {"num_layers": 1, "head": "none"}),
}  # fmt: skip
KEPT = ("mixtral, grouped, window", "qwen3_moe, runs of layers, biases, tokens", "olmoe, clipped")


def config_of(shape: str) -> LlamaConfig:
    family, fields = SHAPES[shape]
    return dataclasses.replace(OLMOE_SMALL if family is OLMOE else SMALL, **fields)


@pytest.fixture(params=few(SHAPES, *KEPT), scope="module")
def pair(request):
    return decoders.make_pair(SHAPES[request.param][0], config_of(request.param))


def test_scores_are_transformers(pair):
    decoders.assert_scores(pair, 19)


def test_there_and_back_is_exact(pair):
    assert pair.family.fits(pair.config)
    parity.assert_there_and_back(pair)


@pytest.mark.parametrize("pair", few(SHAPES, KEPT[1]), indirect=True)
def test_transformers_loads_what_is_written(pair, tmp_path):
    decoders.assert_reloads(pair, tmp_path / "out")


@pytest.mark.parametrize("pair", few(SHAPES, KEPT[2]), indirect=True)
def test_gradients_are_transformers(pair):
    decoders.assert_gradients(pair, 19)


MIXTRAL_8X7B = {
    "architectures": ["MixtralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
    "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
    "max_position_embeddings": 32768, "model_type": "mixtral", "num_attention_heads": 32, "num_experts_per_tok": 2,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "num_local_experts": 8, "output_router_logits": False,
    "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.36.0.dev0", "use_cache": True,
    "vocab_size": 32000,
}  # fmt: skip
QWEN3_30B = {
    "architectures": ["Qwen3MoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 151643, "decoder_sparse_step": 1, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
    "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 6144, "max_position_embeddings": 40960,
    "max_window_layers": 48, "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768,
    "norm_topk_prob": True, "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 48, "num_key_value_heads": 4, "output_router_logits": False, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000.0, "router_aux_loss_coef": 0.001, "sliding_window": None,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True,
    "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
OLMOE_1B_7B = {
    "architectures": ["OlmoeForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "clip_qkv": None,
    "eos_token_id": 50279, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
    "intermediate_size": 1024, "max_position_embeddings": 4096, "model_type": "olmoe", "norm_topk_prob": False,
    "num_attention_heads": 16, "num_experts": 64, "num_experts_per_tok": 8, "num_hidden_layers": 16,
    "num_key_value_heads": 16, "output_router_logits": False, "pad_token_id": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": None, "rope_theta": 10000.0, "router_aux_loss_coef": 0.01, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.43.0.dev0", "use_cache": True, "vocab_size": 50304,
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "published", "preset"),
    [
        (MIXTRAL, MIXTRAL_8X7B, "mixtral-8x7b"),
        (QWEN3_MOE, QWEN3_30B, "qwen3-30b-a3b"),
        (OLMOE, OLMOE_1B_7B, "olmoe-1b-7b"),
    ],
)
def test_published_configs_are_the_presets(family, published, preset):
    want = configs.get(preset).model
    assert isinstance(want, LlamaConfig)
    assert want.experts is not None
    have = family.read_config(published, "language_model")
    # The z-loss is no field of Transformers', and the code that trained OLMoE divides the balance loss by the choices.
    balance_loss = published["router_aux_loss_coef"]
    want = dataclasses.replace(want, experts=dataclasses.replace(want.experts, balance_loss=balance_loss, z_loss=0.0))
    assert have == want


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        (MIXTRAL, {"router_jitter_noise": 0.1}, "router_jitter_noise = 0.1 is not supported, only 0.0"),
        (MIXTRAL, {"moe_intermediate_size": 3}, "unknown fields.*moe_intermediate_size"),
        (MIXTRAL, {"norm_topk_prob": False}, "unknown fields.*norm_topk_prob"),
        (MIXTRAL, {"num_experts_per_tok": 6}, "num_experts_per_tok.*: a token can reach 5 of num_experts 5"),
        (MIXTRAL, {"num_local_experts": "5"}, "num_local_experts = '5' is not a whole number"),
        (MIXTRAL, {"experts": 3}, "unknown fields.*experts"),
        (MIXTRAL, {"attention_bias": True}, "unknown fields.*attention_bias"),
        (MIXTRAL, {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_type = 'yarn' is not supported"),
        (QWEN3_MOE, {"decoder_sparse_step": 0}, "decoder_sparse_step is 0: it must be at least 1"),
        (QWEN3_MOE, {"mlp_only_layers": [0, 1]}, "mlp_only_layers: dense_layers is .*one at least, must have experts"),
        (QWEN3_MOE, {"num_experts": 3, "num_local_experts": 5}, "num_experts, num_local_experts that differ"),
        (QWEN3_MOE, {"mlp_only_layers": ["0"]}, "mlp_only_layers = '0' is not a whole number"),
        (OLMOE, {"clip_qkv": -1.0}, "clip_qkv: clip_qkv is -1.0: it must be above 0"),
        (OLMOE, {"layer_types": ["sliding_attention"] * 2}, "unknown fields.*layer_types"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(family, fields, message):
    config = dataclasses.replace(SMALL, head_norms=True) if family is QWEN3_MOE else SMALL
    written = family.write_config(OLMOE_SMALL if family is OLMOE else config) | fields
    with pytest.raises(UserError, match=message):
        family.read_config(written, "language_model")


def test_sparse_steps_and_dense_layers_are_read_together():
    config = QWEN3_MOE.write_config(dataclasses.replace(SMALL, head_norms=True, num_layers=6))
    read = lambda **fields: QWEN3_MOE.read_config(config | fields, "language_model").dense_layers  # noqa: E731
    assert read(decoder_sparse_step=2) == (0, 2, 4)
    assert read(decoder_sparse_step=3, mlp_only_layers=[5, 9]) == (0, 1, 3, 4, 5)
    assert read(mlp_only_layers=None) == ()


def test_what_transformers_does_not_compute_is_not_exported():
    limited = dataclasses.replace(EXPERTS, capacity_factor=1.25)
    shared = dataclasses.replace(EXPERTS, shared_experts=1)
    for config, family in (
        (SMALL, MIXTRAL),
        (dataclasses.replace(SMALL, head_norms=True), QWEN3_MOE),
        (OLMOE_SMALL, OLMOE),
        (dataclasses.replace(SMALL, experts=None), LLAMA),
        (dataclasses.replace(SMALL, experts=limited), None),
        (dataclasses.replace(SMALL, experts=shared), None),
        (dataclasses.replace(SMALL, dense_layers=(1,)), None),
        (dataclasses.replace(OLMOE_SMALL, head_width=8), None),
        (dataclasses.replace(OLMOE_SMALL, head="sequence_classification"), None),
    ):
        if family is None:
            with pytest.raises(UserError, match="Transformers has no model of this"):
                families.of_architecture(config)
        else:
            assert families.of_architecture(config) is family


def test_an_experts_dtype_is_its_own():
    """One expert in bfloat16, in a layer of float32, goes out as it came."""
    config = dataclasses.replace(SMALL, num_layers=1)
    rng = np.random.default_rng(0)
    shapes = nn.meta.unbox(config.abstract_params())
    params = jax.tree.map(lambda leaf: rng.integers(-9, 9, leaf.shape).astype(np.float32), shapes)
    tensors = dict(MIXTRAL.stream(params, config))
    name = "model.layers.0.block_sparse_moe.experts.3.w2.weight"
    tensors[name] = tensors[name].astype(ml_dtypes.bfloat16)
    loaded = MIXTRAL.load(tensors, config)
    back = dict(MIXTRAL.stream(loaded.params, config, loaded.dtypes))
    assert {name: tensor.dtype for name, tensor in back.items()} == {n: t.dtype for n, t in tensors.items()}
    with pytest.raises(UserError, match=r"missing 'model.layers.0.block_sparse_moe.experts.4.w1.weight'$"):
        MIXTRAL.load({n: t for n, t in tensors.items() if not n.endswith("experts.4.w1.weight")}, config)
