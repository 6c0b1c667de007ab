"""Mixtral and Qwen3-MoE, LLaMA's kin with experts: the published sizes."""

from configs.llama import pretrained
from configs.recipe import Preset
from transformer.layers.experts_config import ExpertsConfig
from transformer.models.llama import LlamaConfig
from transformer.training.experiment import Experiment


@Preset
def mixtral_8x7b() -> Experiment:
    """Mixtral 8x7B (Jiang et al. 2024), 12.9B of its 46.7B active; its training was not published: LLaMA 2's."""
    model = LlamaConfig(
        vocab_size=32000,
        context_length=32768,
        rotary_base=1e6,
        experts=ExpertsConfig(num_experts=8, experts_per_token=2, mlp_width=14336, balance_loss=0.02),
    )
    return pretrained(model, learning_rate=3e-4, tokens=2e12, seq_len=8192)


@Preset
def qwen3_30b_a3b() -> Experiment:
    """Qwen3-30B-A3B (Yang et al. 2025), 3.3B of its 30.5B active; its training was not published: LLaMA 2's."""
    model = LlamaConfig(
        vocab_size=151936,
        context_length=40960,
        width=2048,
        num_layers=48,
        num_heads=32,
        num_kv_heads=4,
        mlp_width=6144,
        norm_epsilon=1e-6,
        rotary_base=1e6,
        head_norms=True,
        experts=ExpertsConfig(num_experts=128, experts_per_token=8, mlp_width=768, balance_loss=0.001),
    )
    return pretrained(model, learning_rate=3e-4, tokens=36e12, seq_len=4096)
