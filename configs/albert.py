"""ALBERT (Lan et al. 2020): a tiny one that trains on a CPU, and the published sizes of version 1."""

from configs.recipe import SHORT_VOCABULARY, published, short
from transformer.models.albert import AlbertConfig
from transformer.objectives.masked_lm import MaskedLM
from transformer.training.experiment import Experiment
from transformer.training.optimizer import OptimizerConfig


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
    return short("albert-python", model, objective, learning_rate=1e-2, steps=1800, batch_size=64, seq_len=32)


def albert_base() -> Experiment:
    """ALBERT base, 12M parameters."""
    return _published("albert-base", 768, 12, 12)


def albert_large() -> Experiment:
    """ALBERT large, 18M parameters."""
    return _published("albert-large", 1024, 24, 16)


def albert_xlarge() -> Experiment:
    """ALBERT xlarge, 60M parameters."""
    return _published("albert-xlarge", 2048, 24, 16)


def albert_xxlarge() -> Experiment:
    """ALBERT xxlarge, 235M parameters."""
    return _published("albert-xxlarge", 4096, 12, 64)


def _published(name: str, width: int, num_layers: int, num_heads: int) -> Experiment:
    """Section 4.1: LAMB at 0.00176, 125,000 updates of 4,096 sequences, up to three words hidden in a row."""
    model = AlbertConfig(
        width=width, num_layers=num_layers, num_heads=num_heads, mlp_width=4 * width, head="pretraining"
    )
    optimizer = OptimizerConfig(
        name="lamb",
        learning_rate=0.00176,
        schedule="linear",
        warmup_steps=3125,
        final_fraction=0.0,
        weight_decay=0.01,
        b2=0.999,
        epsilon=1e-6,
    )
    objective = MaskedLM(choose="ngrams", sentence="sop")
    return published(name, model, objective, optimizer, steps=125_000, batch_size=4096, seq_len=512)


PRESETS = (albert_python, albert_base, albert_large, albert_xlarge, albert_xxlarge)
