"""DeepSeek-V3 against Transformers' on random weights, in odd shapes, and there and back."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest
import torch

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop.deepseek import DEEPSEEK_V3
from transformer.layers.experts_config import ExpertsConfig
from transformer.layers.positions import YarnScaling
from transformer.models.deepseek import DeepseekConfig

from . import decoders, parity

EXPERTS = ExpertsConfig(
    num_experts=12, experts_per_token=3, mlp_width=13, scores="sigmoid", scale=1.5, groups=4, groups_per_token=2,
    selection_bias=True, shared_experts=1,
)  # fmt: skip
SMALL = DeepseekConfig(
    vocab_size=61, context_length=32, width=30, num_layers=3, num_heads=5, mlp_width=37, query_rank=11,
    latent_width=14, head_width=6, rotary_width=4, value_width=7, experts=EXPERTS, first_dense=1,
)  # fmt: skip
YARN = YarnScaling(factor=40.0, original_context=16, fast_turns=3.0, slow_turns=1.0, mscale=1.0, mscale_all_dim=1.0)
# What differs. Every head is somewhere.
SHAPES = {
    "yarn": {"rotary_scaling": YARN, "rotary_width": 8, "rotary_base": 100.0},
    "whole queries, halves, not normalised, two shared, sequences": {
        "query_rank": None, "rotary_interleaved": False, "first_dense": 0, "num_layers": 2, "tie_embeddings": True,
        "experts": dataclasses.replace(EXPERTS, normalize=False, shared_experts=2, groups_per_token=1),
        "head": "sequence_classification", "num_labels": 3,
    },
    "yarn of the paper, one group, tokens": {
        "rotary_scaling": YarnScaling(factor=4.0, original_context=8), "rotary_base": 50.0, "rotary_width": 6,
        "first_dense": 2, "experts": dataclasses.replace(EXPERTS, groups=1, groups_per_token=1),
        "head": "token_classification", "num_labels": 4,
    },
    "wide values, one head, backbone": {"num_heads": 1, "value_width": 19, "num_layers": 2, "head": "none"},
}  # fmt: skip


def with_biases(model):
    """Fills the biases of the choice, which are buffers, widely enough to change it."""
    generator = torch.Generator().manual_seed(1)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.normal_(0.0, 0.3, generator=generator)


@pytest.fixture(params=few(SHAPES, "yarn"), scope="module")
def pair(request):
    config = dataclasses.replace(SMALL, **SHAPES[request.param])
    return parity.make_pair(DEEPSEEK_V3, config, change=with_biases, pad_token_id=decoders.PAD)


def test_scores_are_transformers(pair):
    decoders.assert_scores(pair, 19)


def test_there_and_back_is_exact(pair):
    assert pair.family.fits(pair.config)
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    decoders.assert_reloads(pair, tmp_path / "out")


def test_gradients_are_transformers(pair):
    decoders.assert_gradients(pair, 19)


V3 = {
    "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"}, "bos_token_id": 0, "eos_token_id": 1,
    "ep_size": 1, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.02,
    "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v3",
    "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
    "norm_topk_prob": True, "num_attention_heads": 128, "num_experts_per_tok": 8, "num_hidden_layers": 61,
    "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06, "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40,
    "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type": "yarn"},
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "tie_word_embeddings": False,
    "topk_group": 4, "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "transformers_version": "4.33.1",
    "use_cache": True, "v_head_dim": 128, "vocab_size": 129280,
}  # fmt: skip


def test_the_published_config_is_read():
    want = DeepseekConfig(context_length=163840, rotary_scaling=YarnScaling(40.0, 4096, 32.0, 1.0, 1.0, 1.0))
    assert DEEPSEEK_V3.read_config(V3, "language_model") == want
    assert want.score_scale == pytest.approx(192**-0.5 * (0.1 * np.log(40) + 1) ** 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "unknown fields.*quantization_config"),
        ({"attention_bias": True}, "attention_bias = True is not supported"),
        ({"scoring_func": "softmax"}, "scoring_func = 'softmax' is not supported, only 'sigmoid'"),
        ({"topk_method": "greedy"}, "topk_method = 'greedy' is not supported"),
        ({"moe_layer_freq": 2}, "moe_layer_freq = 2 is not supported"),
        ({"num_key_value_heads": 1}, "num_key_value_heads = 1 is not supported, only num_attention_heads's 5"),
        ({"qk_head_dim": 11}, "qk_head_dim = 11 is not the sum"),
        ({"first_k_dense_replace": 3}, "first_k_dense_replace: first_dense is 3: some of the 3 layers"),
        ({"n_group": 5}, "n_group, n_routed_experts: groups 5 does not divide num_experts 12|groups 5 does not"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_scaling lacks original_max_position_embeddings"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8, "mscale": 1.0}},
            "one of mscale and mscale_all_dim is not supported",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 0, "original_max_position_embeddings": 8}},
            "rope_scaling's factor is 0.0: it must be above 0",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 8, "truncate": False}},
            "rope_scaling: unknown fields, which may change the model: truncate",
        ),
        ({"rope_scaling": {"type": "llama3", "factor": 2.0}}, "rope_type = 'llama3' is not supported, only default, y"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(fields, message):
    with pytest.raises(UserError, match=message):
        DEEPSEEK_V3.read_config(DEEPSEEK_V3.write_config(SMALL) | fields, "language_model")


def test_the_layer_that_predicts_a_second_token_is_left_unread():
    config = dataclasses.replace(SMALL, num_layers=2)
    rng = np.random.default_rng(0)
    shapes = nn.meta.unbox(config.abstract_params())
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    tensors = dict(DEEPSEEK_V3.stream(params, config))
    more = {"model.layers.2.eh_proj.weight": np.ones((30, 60), np.float32)}
    jax.tree.map(np.testing.assert_array_equal, DEEPSEEK_V3.from_hf(tensors | more, config), params)
    with pytest.raises(UserError, match=r"unexpected 'model.layers.3.eh_proj.weight'"):
        DEEPSEEK_V3.from_hf(tensors | {"model.layers.3.eh_proj.weight": np.ones(3, np.float32)}, config)
