"""RoBERTa (Liu et al. 2019): a tiny one that trains on a CPU, and the published sizes."""

from configs.recipe import SHORT_ENCODER, Preset, linear, published, short
from transformer.models.roberta import RobertaConfig
from transformer.objectives.masked_lm import MaskedLM
from transformer.training.experiment import Experiment


@Preset
def roberta_python() -> Experiment:
    """A small RoBERTa on the source of Python's standard library: masked words, fresh masks; minutes on a CPU."""
    model = RobertaConfig(**SHORT_ENCODER)
    return short(model, MaskedLM(), steps=1800)


@Preset
def roberta_base() -> Experiment:
    """RoBERTa base, 125M parameters."""
    return _published(width=768, num_layers=12, num_heads=12, learning_rate=6e-4, warmup_steps=24_000)


@Preset
def roberta_large() -> Experiment:
    """RoBERTa large, 355M parameters."""
    return _published(width=1024, num_layers=24, num_heads=16, learning_rate=4e-4, warmup_steps=30_000)


def _published(*, width: int, num_layers: int, num_heads: int, learning_rate: float, warmup_steps: int) -> Experiment:
    """Table 9: half a million updates of 8,000 sequences; no clipping, b2 0.98."""
    model = RobertaConfig(width=width, num_layers=num_layers, num_heads=num_heads, mlp_width=4 * width)
    optimizer = linear(learning_rate=learning_rate, warmup_steps=warmup_steps, b2=0.98, clip_norm=None)
    return published(model, MaskedLM(), optimizer, steps=5e5, batch_size=8000, seq_len=512)
