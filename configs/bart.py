"""BART (Lewis et al. 2020): a tiny one that trains on a CPU, and the published sizes."""

from configs.recipe import ENGLISH, SHORT_VOCABULARY, Preset, both_sides, linear, published, short
from transformer.models.bart import BartConfig
from transformer.objectives.denoising import Denoising
from transformer.training.experiment import Experiment


@Preset
def bart_python() -> Experiment:
    """A small BART on the source of Python's standard library: text infilling, shuffled sentences; minutes on a CPU."""
    sizes = both_sides(width=128, num_layers=2, num_heads=4)
    model = BartConfig(
        vocab_size=SHORT_VOCABULARY, context_length=256, dropout=0.0, attention_dropout=0.0, mlp_dropout=0.0, **sizes
    )
    return short(model, Denoising(), batch_size=16)


@Preset
def bart_base() -> Experiment:
    """BART base, 139M parameters."""
    return _published(width=768, num_layers=6, num_heads=12)


@Preset
def bart_large() -> Experiment:
    """BART large, 406M parameters."""
    return _published(width=1024, num_layers=12, num_heads=16)


def _published(*, width: int, num_layers: int, num_heads: int) -> Experiment:
    """Section 5.1: half a million updates of 8,000 sequences; the rate and its decay are those of RoBERTa."""
    sizes = both_sides(width=width, num_layers=num_layers, num_heads=num_heads)
    model = BartConfig(
        vocab_size=50265, context_length=1024, dropout=0.1, attention_dropout=0.1, mlp_dropout=0.1, **sizes
    )
    optimizer = linear(learning_rate=4e-4, warmup_steps=10_000, b2=0.98, clip_norm=0.1)
    objective = Denoising(chunk=128)
    return published(model, objective, optimizer, steps=5e5, batch_size=8000, seq_len=512, data=ENGLISH)
