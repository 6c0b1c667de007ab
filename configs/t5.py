"""T5 1.0 and 1.1 (Raffel et al. 2020), mT5 (Xue et al. 2021), UL2 (Tay et al. 2022): tiny ones, published sizes."""

import dataclasses

from configs.recipe import SHORT_VOCABULARY, Preset, published, short
from transformer.data.text.config import TextConfig
from transformer.models.architecture import Architecture
from transformer.models.t5 import T5Config
from transformer.objectives.objective import Objective
from transformer.objectives.span_corruption import SpanCorruption
from transformer.objectives.ul2 import UL2
from transformer.training.experiment import Experiment
from transformer.training.optimizer import OptimizerConfig


@Preset
def t5_python() -> Experiment:
    """A small T5 on the source of Python's standard library: corrupted spans; minutes on a CPU."""
    model = T5Config(
        vocab_size=SHORT_VOCABULARY,
        width=128,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        head_width=32,
        mlp_width=512,
        dropout=0.0,
    )
    return short(model, SpanCorruption(), batch_size=16, seq_len=128)


@Preset
def t5_ul2_python() -> Experiment:
    """The small T5 on UL2's mixture of denoisers."""
    return short(t5_python().model, UL2(), learning_rate=1e-2, batch_size=16, seq_len=128)


@Preset
def t5_small() -> Experiment:
    """T5 small, 60M parameters."""
    return _t5(width=512, num_layers=6, num_heads=8, head_width=64, mlp_width=2048)


@Preset
def t5_base() -> Experiment:
    """T5 base, 220M parameters."""
    return _t5(width=768, num_layers=12, num_heads=12, head_width=64, mlp_width=3072)


@Preset
def t5_large() -> Experiment:
    """T5 large, 770M parameters."""
    return _t5(width=1024, num_layers=24, num_heads=16, head_width=64, mlp_width=4096)


@Preset
def t5_3b() -> Experiment:
    """T5 3B."""
    return _t5(width=1024, num_layers=24, num_heads=32, head_width=128, mlp_width=16384)


@Preset
def t5_11b() -> Experiment:
    """T5 11B."""
    return _t5(width=1024, num_layers=24, num_heads=128, head_width=128, mlp_width=65536)


@Preset
def t5_v1_1_small() -> Experiment:
    """T5 1.1 small, 77M parameters."""
    return _t5(width=512, num_layers=8, num_heads=6, head_width=64, mlp_width=1024, later=True)


@Preset
def t5_v1_1_base() -> Experiment:
    """T5 1.1 base, 250M parameters."""
    return _t5(width=768, num_layers=12, num_heads=12, head_width=64, mlp_width=2048, later=True)


@Preset
def t5_v1_1_large() -> Experiment:
    """T5 1.1 large, 780M parameters."""
    return _t5(width=1024, num_layers=24, num_heads=16, head_width=64, mlp_width=2816, later=True)


@Preset
def t5_v1_1_xl() -> Experiment:
    """T5 1.1 XL, 2.8B parameters."""
    return _t5(width=2048, num_layers=24, num_heads=32, head_width=64, mlp_width=5120, later=True)


@Preset
def t5_v1_1_xxl() -> Experiment:
    """T5 1.1 XXL, 11B parameters."""
    return _t5(width=4096, num_layers=24, num_heads=64, head_width=64, mlp_width=10240, later=True)


@Preset
def mt5_small() -> Experiment:
    """mT5 small, 300M parameters."""
    return _mt5(width=512, num_layers=8, num_heads=6, mlp_width=1024)


@Preset
def mt5_base() -> Experiment:
    """mT5 base, 580M parameters."""
    return _mt5(width=768, num_layers=12, num_heads=12, mlp_width=2048)


@Preset
def mt5_large() -> Experiment:
    """mT5 large, 1.2B parameters."""
    return _mt5(width=1024, num_layers=24, num_heads=16, mlp_width=2816)


@Preset
def mt5_xl() -> Experiment:
    """mT5 XL, 3.7B parameters."""
    return _mt5(width=2048, num_layers=24, num_heads=32, mlp_width=5120)


@Preset
def mt5_xxl() -> Experiment:
    """mT5 XXL, 13B parameters."""
    return _mt5(width=4096, num_layers=24, num_heads=64, mlp_width=10240)


@Preset
def ul2_20b() -> Experiment:
    """UL2 20B."""
    # Section 5.1, and the released model's config.json, whose head is tied: 2 million updates of 1,024 rows of 512 and
    # 512 tokens of C4, a trillion in all, without dropout.
    model = T5Config(
        width=4096,
        num_encoder_layers=32,
        num_decoder_layers=32,
        num_heads=16,
        head_width=256,
        mlp_width=16384,
        activation="silu",
        gated=True,
        dropout=0.0,
    )
    objective = UL2(chunk=128, z_loss=1e-4)
    return _pretrained(model, "c4/en", batch_size=1024, objective=objective, steps=2e6)


def _t5(
    *, width: int, num_layers: int, num_heads: int, head_width: int, mlp_width: int, later: bool = False
) -> Experiment:
    """Section 3.7: a million updates of 2^11 sequences of 512 tokens of C4.

    Version 1.1 has gated layers, a head of its own, and no dropout while it is pretrained (its release notes).
    """
    model = T5Config(
        width=width,
        num_encoder_layers=num_layers,
        num_decoder_layers=num_layers,
        num_heads=num_heads,
        head_width=head_width,
        mlp_width=mlp_width,
        activation="gelu_tanh" if later else "relu",
        gated=later,
        dropout=0.0 if later else 0.1,
        tie_embeddings=not later,
    )
    return _pretrained(model, "c4/en", batch_size=2048)


def _mt5(**sizes: int) -> Experiment:
    """Section 3.2: T5 1.1 over 250,112 pieces; a million updates of 1,024 sequences of 1,024 tokens of mC4."""
    model = dataclasses.replace(_t5(**sizes, head_width=64, later=True).model, vocab_size=250112)
    return _pretrained(model, "c4/multilingual", batch_size=1024, seq_len=1024)


def _pretrained(
    model: Architecture,
    corpus: str,
    *,
    batch_size: int,
    seq_len: int = 512,
    objective: Objective = SpanCorruption(chunk=128, z_loss=1e-4),  # the z-loss is that of the released code
    steps: float = 1e6,
) -> Experiment:
    """AdaFactor at 1 / sqrt(max(n, 10^4)); here the rate rises to 0.01 over the first 10^4 updates, then falls so."""
    optimizer = OptimizerConfig(
        name="adafactor",
        learning_rate=0.01,
        schedule="inverse_sqrt",
        warmup_steps=10_000,
        weight_decay=0.0,
        clip_norm=None,
    )
    data = TextConfig(tfds=corpus, tokenizer="unigram")
    return published(model, objective, optimizer, steps=steps, batch_size=batch_size, seq_len=seq_len, data=data)
