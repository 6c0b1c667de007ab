"""LLaMA, Mistral, Qwen2 and Qwen3 against Transformers' on random weights, in odd shapes, and there and back."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop.family import LABELLED
from transformer.interop.llama import LLAMA, MISTRAL, QWEN2, QWEN3
from transformer.layers.positions import Llama3Scaling
from transformer.models.llama import LlamaConfig

from . import decoders, parity

SMALL = LlamaConfig(
    vocab_size=61,
    context_length=32,
    width=30,
    num_layers=2,
    num_heads=5,
    num_kv_heads=5,
    head_width=6,
    mlp_width=37,
    rotary_base=1e4,
)
# Name -> family, what differs. Every head is somewhere.
SHAPES = {
    "llama": (LLAMA, {}),
    "llama, grouped, wide heads, all biases, llama3 positions": (
        LLAMA,
        {
            "num_layers": 3, "width": 18, "num_heads": 6, "num_kv_heads": 3, "head_width": 8, "tie_embeddings": True,
            "attention_biases": "all", "mlp_biases": True, "rotary_base": 500.0, "norm_epsilon": 1e-2,
            "rotary_scaling": Llama3Scaling(4.0, 1.0, 4.0, 16),
        },
    ),
    "llama, one key head, answers": (
        LLAMA, {"num_layers": 1, "num_heads": 3, "num_kv_heads": 1, "activation": "gelu", "head": "question_answering"},
    ),
    "mistral": (MISTRAL, {"window": 5, "num_heads": 7, "num_kv_heads": 7}),
    "mistral, no window, tied": (MISTRAL, {"num_layers": 3, "num_heads": 6, "num_kv_heads": 3, "tie_embeddings": True}),
    "mistral, one layer, tokens": (
        MISTRAL,
        {
            "num_layers": 1, "window": 1, "num_heads": 3, "num_kv_heads": 1, "num_labels": 3,
            "head": "token_classification",
        },
    ),
    "qwen2": (QWEN2, {"attention_biases": "qkv", "tie_embeddings": True, "num_heads": 10, "width": 60}),
    "qwen2, window, answers": (
        QWEN2,
        {"attention_biases": "qkv", "window": 4, "num_layers": 3, "head_width": 8, "head": "question_answering"},
    ),
    "qwen2, one layer, sequences": (
        QWEN2,
        {
            "attention_biases": "qkv", "num_layers": 1, "num_heads": 3, "num_kv_heads": 1, "head_width": 10,
            "num_labels": 5, "head": "sequence_classification",
        },
    ),
    "qwen3": (QWEN3, {"head_norms": True, "num_heads": 6, "num_kv_heads": 3, "head_width": 10}),
    "qwen3, all biases, window, backbone": (
        QWEN3,
        {
            "head_norms": True, "attention_biases": "all", "window": 6, "num_layers": 3, "num_heads": 3,
            "num_kv_heads": 1, "tie_embeddings": True, "head": "none",
        },
    ),
    "qwen3, one layer, sequences": (
        QWEN3, {"head_norms": True, "num_layers": 1, "num_labels": 1, "head": "sequence_classification"},
    ),
}  # fmt: skip

FEW = (
    "llama, grouped, wide heads, all biases, llama3 positions",
    "llama, one key head, answers",
    "mistral, no window, tied",
    "mistral, one layer, tokens",
    "qwen2, one layer, sequences",
    "qwen3, all biases, window, backbone",
)


@pytest.fixture(params=few(SHAPES, *FEW), scope="module")
def pair(request):
    family, fields = SHAPES[request.param]
    return decoders.make_pair(family, dataclasses.replace(SMALL, **fields))


def test_scores_are_transformers(pair):
    decoders.assert_scores(pair, 19)


def test_there_and_back_is_exact(pair):
    assert pair.family.fits(pair.config)
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    decoders.assert_reloads(pair, tmp_path / "out")


@pytest.mark.parametrize("head", ["sequence_classification", "token_classification", "none"])
def test_every_head_of_llama_is_transformers(head, tmp_path):
    labels = 3 if head in LABELLED else 2
    config = dataclasses.replace(SMALL, head=head, num_labels=labels, num_layers=1)
    pair = decoders.make_pair(LLAMA, config)
    decoders.assert_scores(pair, 19)
    parity.assert_there_and_back(pair)
    decoders.assert_reloads(pair, tmp_path / "out")


@pytest.mark.parametrize("shape", few([FEW[0], "mistral", "qwen2", "qwen3"], FEW[0], "qwen3"))
def test_gradients_are_transformers(shape):
    family, fields = SHAPES[shape]
    decoders.assert_gradients(decoders.make_pair(family, dataclasses.replace(SMALL, **fields)), 19)


def test_only_one_model_type_computes_what_makes_it_another():
    families = (LLAMA, MISTRAL, QWEN2, QWEN3)
    for fields, first in (
        ({}, LLAMA),
        ({"attention_biases": "all", "mlp_biases": True}, LLAMA),
        ({"window": 4}, MISTRAL),
        ({"num_heads": 7, "num_kv_heads": 7}, MISTRAL),  # Transformers' LLaMA refuses heads that do not divide
        ({"attention_biases": "qkv"}, QWEN2),
        ({"head_norms": True, "attention_biases": "all"}, QWEN3),
        ({"head_norms": True, "attention_biases": "qkv"}, None),
        ({"window": 4, "mlp_biases": True}, None),
    ):
        config = dataclasses.replace(SMALL, **fields)
        assert next((family for family in families if family.fits(config)), None) is first


LLAMA_31 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 14336, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1,
    "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.43.0", "use_cache": True,
    "vocab_size": 128256,
}  # fmt: skip
LLAMA_1 = {
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 2048,
    "max_sequence_length": 2048, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
    "pad_token_id": 0, "rms_norm_eps": 1e-06, "tie_word_embeddings": False, "torch_dtype": "float16",
    "transformers_version": "4.28.0", "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
MISTRAL_01 = {
    "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
    "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
    "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "transformers_version": "4.34.0", "use_cache": True, "vocab_size": 32000,
}  # fmt: skip
QWEN25 = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643,
    "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
    "max_position_embeddings": 32768, "max_window_layers": 24, "model_type": "qwen2", "num_attention_heads": 14,
    "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.40.1",
    "use_cache": True, "use_mrope": False, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
QWEN3_06 = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02,
    "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
    "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False,
    "vocab_size": 151936,
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "published", "want"),
    [
        (LLAMA, LLAMA_31, LlamaConfig(context_length=131072, rotary_scaling=Llama3Scaling(8.0, 1.0, 4.0, 8192))),
        (
            LLAMA,
            LLAMA_1,
            LlamaConfig(
                vocab_size=32000, context_length=2048, num_kv_heads=32, mlp_width=11008, norm_epsilon=1e-6,
                rotary_base=1e4,
            ),
        ),
        (MISTRAL, MISTRAL_01, LlamaConfig(vocab_size=32000, context_length=32768, rotary_base=1e4, window=4096)),
        (
            QWEN2,
            QWEN25,
            LlamaConfig(
                vocab_size=151936, context_length=32768, width=896, num_layers=24, num_heads=14, num_kv_heads=2,
                head_width=64, mlp_width=4864,
                norm_epsilon=1e-6, rotary_base=1e6, attention_biases="qkv", tie_embeddings=True,
            ),
        ),
        (
            QWEN3,
            QWEN3_06,
            LlamaConfig(
                vocab_size=151936, context_length=40960, width=1024, num_layers=28, num_heads=16, num_kv_heads=8,
                head_width=128, mlp_width=3072,
                norm_epsilon=1e-6, rotary_base=1e6, head_norms=True, tie_embeddings=True,
            ),
        ),
    ],
    ids=["llama 3.1 8B", "llama 7B", "mistral 7B", "qwen2.5 0.5B", "qwen3 0.6B"],
)  # fmt: skip
def test_published_configs_are_read(family, published, want):
    assert family.read_config(published, "language_model") == want


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        (LLAMA, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type = 'linear' is not supported"),
        (LLAMA, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type = 'dynamic' is not supported"),
        (LLAMA, {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type = 'yarn' is not supported"),
        (LLAMA, {"rope_parameters": {"rope_type": "longrope"}}, "rope_type = 'longrope' is not supported"),
        (LLAMA, {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "lacks low_freq_factor, high_freq_factor"),
        (LLAMA, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "unknown fields.*partial_rotary_factor"),
        (LLAMA, {"partial_rotary_factor": 0.5}, "unknown fields.*partial_rotary_factor"),
        (LLAMA, {"pretraining_tp": 2}, "pretraining_tp = 2 is not supported"),
        (LLAMA, {"hidden_act": "mish"}, "hidden_act = 'mish' is not supported"),
        (LLAMA, {"sliding_window": 4}, "unknown fields.*sliding_window"),
        (LLAMA, {"layer_types": ["sliding_attention"] * 2}, "layer_types.*are not supported"),
        (LLAMA, {"model_type": "qwen2"}, "model_type is 'qwen2'"),
        (MISTRAL, {"attention_bias": True}, "unknown fields.*attention_bias"),
        (MISTRAL, {"sliding_window": 4, "layer_types": ["full_attention"] * 2}, "layer_types of full_attention"),
        (QWEN2, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "max_window_layers.*differ"),
        (QWEN2, {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types.*differ"),
        (QWEN2, {"use_mrope": True}, "use_mrope = True is not supported"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(family, fields, message):
    biases = "qkv" if family is QWEN2 else "none"
    config = family.write_config(dataclasses.replace(SMALL, attention_biases=biases)) | fields
    with pytest.raises(UserError, match=message):
        family.read_config(config, "language_model")


def test_a_list_of_equal_layers_and_a_late_window_are_none():
    config = QWEN2.write_config(dataclasses.replace(SMALL, attention_biases="qkv", window=4))
    read = lambda **fields: QWEN2.read_config(config | fields, "language_model").window  # noqa: E731
    assert read() == 4
    assert read(max_window_layers=2) is None
    assert read(layer_types=["full_attention"] * 2) is None
    assert read(max_window_layers=2, layer_types=["sliding_attention"] * 2) == 4


def test_a_bare_backbone_and_old_buffers_are_read():
    config = dataclasses.replace(SMALL, tie_embeddings=True)
    shapes = nn.meta.unbox(config.abstract_params())
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    bare = {name.removeprefix("model."): tensor for name, tensor in LLAMA.stream(params, config)}
    bare["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, np.float32)
    jax.tree.map(np.testing.assert_array_equal, LLAMA.from_hf(bare, config), params)
