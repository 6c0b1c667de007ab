"""T5 1.0 and 1.1 (Raffel et al. 2020), mT5 (Xue et al. 2021), UL2 (Tay et al. 2022): tiny ones, published sizes."""

from configs.recipe import SHORT_VOCABULARY, published, short
from transformer.data.text.config import TextConfig
from transformer.models.t5 import T5Config
from transformer.objectives.objective import Objective
from transformer.objectives.span_corruption import SpanCorruption
from transformer.objectives.ul2 import UL2
from transformer.training.experiment import Experiment
from transformer.training.optimizer import OptimizerConfig


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
    return short("t5-python", model, SpanCorruption(), batch_size=16, seq_len=128)


def t5_ul2_python() -> Experiment:
    """The small T5 on UL2's mixture of denoisers."""
    return short("t5-ul2-python", t5_python().model, UL2(), learning_rate=1e-2, batch_size=16, seq_len=128)


def t5_small() -> Experiment:
    """T5 small, 60M parameters."""
    return _t5("t5-small", 512, 6, 8, 64, 2048)


def t5_base() -> Experiment:
    """T5 base, 220M parameters."""
    return _t5("t5-base", 768, 12, 12, 64, 3072)


def t5_large() -> Experiment:
    """T5 large, 770M parameters."""
    return _t5("t5-large", 1024, 24, 16, 64, 4096)


def t5_3b() -> Experiment:
    """T5 3B."""
    return _t5("t5-3b", 1024, 24, 32, 128, 16384)


def t5_11b() -> Experiment:
    """T5 11B."""
    return _t5("t5-11b", 1024, 24, 128, 128, 65536)


def t5_v1_1_small() -> Experiment:
    """T5 1.1 small, 77M parameters."""
    return _t5("t5-v1-1-small", 512, 8, 6, 64, 1024, later=True)


def t5_v1_1_base() -> Experiment:
    """T5 1.1 base, 250M parameters."""
    return _t5("t5-v1-1-base", 768, 12, 12, 64, 2048, later=True)


def t5_v1_1_large() -> Experiment:
    """T5 1.1 large, 780M parameters."""
    return _t5("t5-v1-1-large", 1024, 24, 16, 64, 2816, later=True)


def t5_v1_1_xl() -> Experiment:
    """T5 1.1 XL, 2.8B parameters."""
    return _t5("t5-v1-1-xl", 2048, 24, 32, 64, 5120, later=True)


def t5_v1_1_xxl() -> Experiment:
    """T5 1.1 XXL, 11B parameters."""
    return _t5("t5-v1-1-xxl", 4096, 24, 64, 64, 10240, later=True)


def mt5_small() -> Experiment:
    """mT5 small, 300M parameters."""
    return _mt5("mt5-small", 512, 8, 6, 1024)


def mt5_base() -> Experiment:
    """mT5 base, 580M parameters."""
    return _mt5("mt5-base", 768, 12, 12, 2048)


def mt5_large() -> Experiment:
    """mT5 large, 1.2B parameters."""
    return _mt5("mt5-large", 1024, 24, 16, 2816)


def mt5_xl() -> Experiment:
    """mT5 XL, 3.7B parameters."""
    return _mt5("mt5-xl", 2048, 24, 32, 5120)


def mt5_xxl() -> Experiment:
    """mT5 XXL, 13B parameters."""
    return _mt5("mt5-xxl", 4096, 24, 64, 10240)


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
    return _pretrained("ul2-20b", model, "c4/en", batch_size=1024, objective=objective, steps=2e6)


def _t5(
    name: str, width: int, layers: int, num_heads: int, head_width: int, mlp_width: int, *, later: bool = False
) -> Experiment:
    """Section 3.7: a million updates of 2^11 sequences of 512 tokens of C4.

    Version 1.1 has gated layers, a head of its own, and no dropout while it is pretrained (its release notes).
    """
    model = T5Config(
        width=width,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        num_heads=num_heads,
        head_width=head_width,
        mlp_width=mlp_width,
        activation="gelu_tanh" if later else "relu",
        gated=later,
        dropout=0.0 if later else 0.1,
        tie_embeddings=not later,
    )
    return _pretrained(name, model, "c4/en", batch_size=2048)


def _mt5(name: str, width: int, layers: int, num_heads: int, mlp_width: int) -> Experiment:
    """Section 3.2: T5 1.1 over 250,112 pieces; a million updates of 1,024 sequences of 1,024 tokens of mC4."""
    model = T5Config(
        vocab_size=250112,
        width=width,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        num_heads=num_heads,
        head_width=64,
        mlp_width=mlp_width,
        activation="gelu_tanh",
        gated=True,
        dropout=0.0,
        tie_embeddings=False,
    )
    return _pretrained(name, model, "c4/multilingual", batch_size=1024, seq_len=1024)


def _pretrained(
    name: str,
    model: T5Config,
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
    return published(name, model, objective, optimizer, steps=steps, batch_size=batch_size, seq_len=seq_len, data=data)


PRESETS = (
    t5_python,
    t5_ul2_python,
    t5_small,
    t5_base,
    t5_large,
    t5_3b,
    t5_11b,
    t5_v1_1_small,
    t5_v1_1_base,
    t5_v1_1_large,
    t5_v1_1_xl,
    t5_v1_1_xxl,
    mt5_small,
    mt5_base,
    mt5_large,
    mt5_xl,
    mt5_xxl,
    ul2_20b,
)
