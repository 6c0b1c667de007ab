"""RoBERTa (Liu et al. 2019): a tiny one that trains on a CPU, and the published sizes."""

from configs.recipe import SHORT_VOCABULARY, published, short
from transformer.models.roberta import RobertaConfig
from transformer.objectives.masked_lm import MaskedLM
from transformer.training.experiment import Experiment
from transformer.training.optimizer import OptimizerConfig


def roberta_python() -> Experiment:
    """A small RoBERTa on the source of Python's standard library: masked words, fresh masks; minutes on a CPU."""
    model = RobertaConfig(
        vocab_size=SHORT_VOCABULARY,
        context_length=256,
        width=128,
        num_layers=2,
        num_heads=4,
        mlp_width=512,
        dropout=0.0,
        attention_dropout=0.0,
    )
    return short("roberta-python", model, MaskedLM(), steps=1800)


def roberta_base() -> Experiment:
    """RoBERTa base, 125M parameters."""
    return _published("roberta-base", 768, 12, 12, learning_rate=6e-4, warmup_steps=24_000)


def roberta_large() -> Experiment:
    """RoBERTa large, 355M parameters."""
    return _published("roberta-large", 1024, 24, 16, learning_rate=4e-4, warmup_steps=30_000)


def _published(
    name: str, width: int, num_layers: int, num_heads: int, *, learning_rate: float, warmup_steps: int
) -> Experiment:
    """Table 9: half a million updates of 8,000 sequences; no clipping, b2 0.98."""
    model = RobertaConfig(width=width, num_layers=num_layers, num_heads=num_heads, mlp_width=4 * width)
    optimizer = OptimizerConfig(
        learning_rate=learning_rate,
        schedule="linear",
        warmup_steps=warmup_steps,
        final_fraction=0.0,
        weight_decay=0.01,
        b2=0.98,
        epsilon=1e-6,
        clip_norm=None,
    )
    return published(name, model, MaskedLM(), optimizer, steps=5e5, batch_size=8000, seq_len=512)


PRESETS = (roberta_python, roberta_base, roberta_large)
