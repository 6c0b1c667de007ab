"""GPT: tiny ones that train on a CPU, GPT-2 (Radford et al. 2019), GPT-3 (Brown et al. 2020, table 2.1)."""

import dataclasses

from transformer.checkpoint import CheckpointConfig
from transformer.data.config import DataConfig
from transformer.layers.execution import Execution
from transformer.models.gpt import GPTConfig
from transformer.objectives.causal_lm import CausalLM
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig


def gpt_python() -> Experiment:
    """A small GPT on the source of Python's standard library; minutes on a CPU."""
    return Experiment(
        name="gpt-python",
        model=GPTConfig(vocab_size=4096, context_length=256, width=192, num_layers=4, num_heads=4, dropout=0.0),
        data=DataConfig(tfds="python_stdlib", tokenizer="bpe"),
        optimizer=OptimizerConfig(
            name="muon", learning_rate=1e-2, warmup_steps=50, schedule="linear", final_fraction=0.0
        ),
        train=TrainConfig(steps=1000, batch_size=8, seq_len=256, eval_every=250),
        checkpoint=CheckpointConfig(every=250),
        execution=Execution(unroll=0),
    )


def gpt_text() -> Experiment:
    """The small GPT on your own text: give --data.path or --data.tfds."""
    base = gpt_python()
    return dataclasses.replace(base, name="gpt-text", data=DataConfig())


def gpt2_small() -> Experiment:
    """GPT-2 small, 124M parameters."""
    return _gpt2("gpt2-small", width=768, num_layers=12, num_heads=12, learning_rate=6e-4)


def gpt2_medium() -> Experiment:
    """GPT-2 medium, 355M parameters."""
    return _gpt2("gpt2-medium", width=1024, num_layers=24, num_heads=16, learning_rate=3e-4)


def gpt2_large() -> Experiment:
    """GPT-2 large, 774M parameters."""
    return _gpt2("gpt2-large", width=1280, num_layers=36, num_heads=20, learning_rate=2.5e-4)


def gpt2_xl() -> Experiment:
    """GPT-2 XL, 1.56B parameters."""
    return _gpt2("gpt2-xl", width=1600, num_layers=48, num_heads=25, learning_rate=2e-4)


def gpt3_small() -> Experiment:
    """GPT-3 small, 125M parameters."""
    return _gpt3("gpt3-small", width=768, num_layers=12, num_heads=12, batch_size=256, learning_rate=6e-4)


def gpt3_medium() -> Experiment:
    """GPT-3 medium, 350M parameters."""
    return _gpt3("gpt3-medium", width=1024, num_layers=24, num_heads=16, batch_size=256, learning_rate=3e-4)


def gpt3_large() -> Experiment:
    """GPT-3 large, 760M parameters."""
    return _gpt3("gpt3-large", width=1536, num_layers=24, num_heads=16, batch_size=256, learning_rate=2.5e-4)


def gpt3_xl() -> Experiment:
    """GPT-3 XL, 1.3B parameters."""
    # The table says 24 heads of width 128, which a width of 2048 does not hold; 16 do, and give its 1.3B parameters.
    return _gpt3("gpt3-xl", width=2048, num_layers=24, num_heads=16, batch_size=512, learning_rate=2e-4)


def gpt3_2_7b() -> Experiment:
    """GPT-3 2.7B."""
    return _gpt3("gpt3-2-7b", width=2560, num_layers=32, num_heads=32, batch_size=512, learning_rate=1.6e-4)


def gpt3_6_7b() -> Experiment:
    """GPT-3 6.7B."""
    return _gpt3("gpt3-6-7b", width=4096, num_layers=32, num_heads=32, batch_size=1024, learning_rate=1.2e-4)


def gpt3_13b() -> Experiment:
    """GPT-3 13B."""
    # The table's width of 5140 is not 40 heads of 128; 5120 is.
    return _gpt3("gpt3-13b", width=5120, num_layers=40, num_heads=40, batch_size=1024, learning_rate=1e-4)


def gpt3_175b() -> Experiment:
    """GPT-3, 175B parameters."""
    return _gpt3("gpt3-175b", width=12288, num_layers=96, num_heads=96, batch_size=1536, learning_rate=0.6e-4)


def _gpt2(name: str, *, width: int, num_layers: int, num_heads: int, learning_rate: float) -> Experiment:
    """The published shapes, contexts and batch; the report gives no optimizer, so GPT-3's stands in."""
    return _published(
        name, 1024, width, num_layers, num_heads, batch_size=512, tokens=300e9, learning_rate=learning_rate
    )


def _gpt3(
    name: str, *, width: int, num_layers: int, num_heads: int, batch_size: int, learning_rate: float
) -> Experiment:
    """Table 2.1, with the optimizer of appendix B; every layer attends densely here."""
    return _published(name, 2048, width, num_layers, num_heads, batch_size, tokens=300e9, learning_rate=learning_rate)


def _published(
    name: str,
    context: int,
    width: int,
    num_layers: int,
    num_heads: int,
    batch_size: int,
    tokens: float,
    learning_rate: float,
) -> Experiment:
    """Adam with b2 0.95, decay 0.1, clipping at 1, a warmup over 375M tokens and a cosine to a tenth."""
    tokens_per_step = batch_size * context
    return Experiment(
        name=name,
        model=GPTConfig(
            vocab_size=50257,
            context_length=context,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            dropout=0.0,
        ),
        objective=CausalLM(chunk=128),
        data=DataConfig(tokenizer="bpe"),
        optimizer=OptimizerConfig(
            learning_rate=learning_rate,
            schedule="cosine",
            warmup_steps=round(375e6 / tokens_per_step),
            weight_decay=0.1,
            b2=0.95,
        ),
        train=TrainConfig(
            steps=round(tokens / tokens_per_step),
            batch_size=batch_size,
            seq_len=context,
            eval_every=1000,
            eval_batches=20,
        ),
        checkpoint=CheckpointConfig(every=1000),
        execution=Execution(dtype="bfloat16", remat="full" if width >= 1600 else "none"),
    )


PRESETS = (
    gpt_python,
    gpt_text,
    gpt2_small,
    gpt2_medium,
    gpt2_large,
    gpt2_xl,
    gpt3_small,
    gpt3_medium,
    gpt3_large,
    gpt3_xl,
    gpt3_2_7b,
    gpt3_6_7b,
    gpt3_13b,
    gpt3_175b,
)
