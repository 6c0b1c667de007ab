"""ALBERT (Lan et al. 2020): a tiny one that trains on a CPU, and the published sizes of version 1."""

from configs.recipe import SHORT_VOCABULARY, Preset, linear, published, short
from transformer.models.albert import AlbertConfig
from transformer.objectives.masked_lm import MaskedLM
from transformer.training.experiment import Experiment


@Preset
def albert_python() -> Experiment:
    """A small ALBERT on the source of Python's standard library: masked words and sentence order; minutes on a CPU."""
    model = AlbertConfig(
        vocab_size=SHORT_VOCABULARY,
        embedding_width=128,
        context_length=256,
        width=128,
        num_layers=2,
        num_heads=4,
        mlp_width=512,
        head="pretraining",
    )
    # Layers that share their weights learn slower: a higher rate, shorter rows, no runs of words.
    objective = MaskedLM(choose="words", sentence="sop")
    return short(model, objective, learning_rate=1e-2, steps=1800, batch_size=64, seq_len=32)


@Preset
def albert_base() -> Experiment:
    """ALBERT base, 12M parameters."""
    return _published(width=768, num_layers=12, num_heads=12)


@Preset
def albert_large() -> Experiment:
    """ALBERT large, 18M parameters."""
    return _published(width=1024, num_layers=24, num_heads=16)


@Preset
def albert_xlarge() -> Experiment:
    """ALBERT xlarge, 60M parameters."""
    return _published(width=2048, num_layers=24, num_heads=16)


@Preset
def albert_xxlarge() -> Experiment:
    """ALBERT xxlarge, 235M parameters."""
    return _published(width=4096, num_layers=12, num_heads=64)


def _published(*, width: int, num_layers: int, num_heads: int) -> Experiment:
    """Section 4.1: LAMB at 0.00176, 125,000 updates of 4,096 sequences, up to three words hidden in a row."""
    model = AlbertConfig(
        width=width, num_layers=num_layers, num_heads=num_heads, mlp_width=4 * width, head="pretraining"
    )
    optimizer = linear(name="lamb", learning_rate=0.00176, warmup_steps=3125, b2=0.999)
    objective = MaskedLM(choose="ngrams", sentence="sop")
    return published(model, objective, optimizer, steps=125_000, batch_size=4096, seq_len=512)
