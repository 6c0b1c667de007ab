"""DeepSeek-V3 against Transformers' on random weights, in odd shapes, and there and back."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop.deepseek import DEEPSEEK_V3
from transformer.layers.experts import ExpertsConfig
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
