"""Mixtures of experts: a tiny one that trains on a CPU, and the dense model of equal active parameters."""

import dataclasses

from configs.recipe import PYTHON_VOCABULARY, Preset, small
from transformer.layers.experts_config import ExpertsConfig
from transformer.models.llama import LlamaConfig
from transformer.objectives.causal_lm import CausalLM
from transformer.training.experiment import Experiment

_EXPERT_WIDTH = 128


@Preset
def moe_python_tiny() -> Experiment:
    """A tiny LLaMA of 8 experts, 2 a token, on the source of Python's standard library; minutes on a CPU."""
    experts = ExpertsConfig(
        num_experts=8,
        experts_per_token=2,
        mlp_width=_EXPERT_WIDTH,
        scale=2.0,  # two experts, whose weights sum to 1, then begin as loud as one layer of twice the width
        balance_loss=0.01,
        z_loss=0.001,
    )
    return small(dataclasses.replace(_dense(), experts=experts), CausalLM(), seq_len=128)


@Preset
def moe_python_tiny_dense() -> Experiment:
    """What moe-python-tiny is compared with: as many parameters as a token of it meets, its routers apart."""
    return small(_dense(), CausalLM(), seq_len=128)


def _dense() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=PYTHON_VOCABULARY,
        context_length=128,
        width=128,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_width=32,
        mlp_width=2 * _EXPERT_WIDTH,
        rotary_base=10_000.0,
        tie_embeddings=True,
    )
