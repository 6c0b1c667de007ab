"""Mixtral, Qwen3-MoE and OLMoE against Transformers' on random weights, in odd shapes, and there and back."""

import dataclasses

import numpy as np
import pytest

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop.llama import LLAMA
from transformer.interop.mixtral import MIXTRAL, QWEN3_MOE
from transformer.interop.olmoe import OLMOE
from transformer.layers.experts import ExpertsConfig
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


def test_transformers_loads_what_is_written(pair, tmp_path):
    decoders.assert_reloads(pair, tmp_path / "out")


def test_gradients_are_transformers(pair):
    decoders.assert_gradients(pair, 19)
