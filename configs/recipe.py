"""What presets have in common: the small ones' corpus and length, and the published ones' execution."""

from collections.abc import Callable

from transformer.checkpoint import CheckpointConfig
from transformer.data.text.config import TextConfig
from transformer.layers.execution import Execution
from transformer.models.architecture import Architecture
from transformer.objectives.objective import Objective
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig

Preset = Callable[[], Experiment]

PYTHON_VOCABULARY = 4096
"""Pieces of the small decoders' tokenizers."""

SHORT_VOCABULARY = 1024
"""Pieces of the tokenizers of the small encoders and encoder-decoders: the fewer, the sooner each is known."""

ENGLISH = TextConfig(tfds="wikipedia/20230601.en", tokenizer="unigram")
"""English Wikipedia: the part that is still published of what BERT, RoBERTa and BART read."""

DOCSTRINGS = TextConfig(tfds="python_docstrings", fields=("code", "summary"), tokenizer="bpe")
"""Functions of Python's standard library and the first lines of their docstrings."""

STUDY_VOCABULARY = 512
"""Pieces of the scaling studies' tokenizers: few, so that even the smallest model is more than its table of words."""

_LARGE = 1e9
"""Parameters from which on a layer's activations are too many to keep."""


def small(
    name: str,
    model: Architecture,
    objective: Objective,
    *,
    data: TextConfig = TextConfig(tfds="python_stdlib", tokenizer="bpe"),
    learning_rate: float = 1e-2,
    steps: int = 1000,
    batch_size: int = 8,
    seq_len: int = 256,
) -> Experiment:
    """A model that trains in minutes on a CPU, by default on the source of Python's standard library."""
    return Experiment(
        name=name,
        model=model,
        objective=objective,
        data=data,
        optimizer=OptimizerConfig(
            name="muon", learning_rate=learning_rate, warmup_steps=50, schedule="linear", final_fraction=0.0
        ),
        train=TrainConfig(steps=steps, batch_size=batch_size, seq_len=seq_len, eval_every=250),
        checkpoint=CheckpointConfig(every=250),
        execution=Execution(unroll=0),
    )


def short(
    name: str,
    model: Architecture,
    objective: Objective,
    *,
    data: TextConfig = TextConfig(tfds="python_stdlib", tokenizer="bpe"),
    learning_rate: float = 5e-3,
    steps: int = 1200,
    batch_size: int = 32,
    seq_len: int = 64,
) -> Experiment:
    """A small encoder or encoder-decoder: short rows, many of them, at a lower rate.

    A causal model learns from each token what follows it. These must first learn where to look, on either side or in
    another text, and until then guess by frequency. Few places to look at shorten that.
    """
    return small(
        name,
        model,
        objective,
        data=data,
        learning_rate=learning_rate,
        steps=steps,
        batch_size=batch_size,
        seq_len=seq_len,
    )


def study(
    name: str,
    model: Architecture,
    objective: Objective,
    *,
    batch_size: int,
    seq_len: int,
) -> Experiment:
    """A size of a scaling study that runs on a CPU: Muon, small batches, a rate that falls to 0, whatever the steps.

    Small models that are trained for minutes get further with Muon than with AdamW (docs/scaling-study.md), and the
    sooner attention finds its places, the smaller the budgets that follow a power law. The rate is constant up to the
    cooldown, so that one long run can be cooled down from several places.
    """
    return Experiment(
        name=name,
        model=model,
        objective=objective,
        data=TextConfig(tfds="python_stdlib", tokenizer="bpe"),
        optimizer=OptimizerConfig(
            name="muon",
            learning_rate=0.01,
            schedule="wsd",
            warmup_steps=50,
            final_fraction=0.0,
            cooldown_fraction=0.2,
        ),
        train=TrainConfig(steps=1000, batch_size=batch_size, seq_len=seq_len, eval_every=1000, eval_batches=200),
        checkpoint=CheckpointConfig(every=1000),
        execution=Execution(unroll=0),
    )


def published(
    name: str,
    model: Architecture,
    objective: Objective,
    optimizer: OptimizerConfig,
    *,
    steps: float,
    batch_size: int,
    seq_len: int,
    data: TextConfig = ENGLISH,
) -> Experiment:
    """A paper's setting, computed in bfloat16; the layers of a large model are computed again in the backward pass."""
    return Experiment(
        name=name,
        model=model,
        objective=objective,
        data=data,
        optimizer=optimizer,
        train=TrainConfig(steps=round(steps), batch_size=batch_size, seq_len=seq_len, eval_every=1000, eval_batches=20),
        checkpoint=CheckpointConfig(every=1000),
        execution=Execution(dtype="bfloat16", remat="full" if model.num_params() > _LARGE else "none"),
    )
