"""What presets have in common: the small ones' corpus and length, and the published ones' execution."""

import dataclasses
from collections.abc import Callable
from typing import Any

from transformer.checkpoint import CheckpointConfig
from transformer.data.dataset import DataConfig
from transformer.data.text.config import TextConfig
from transformer.layers.execution import Execution
from transformer.models.architecture import Architecture
from transformer.objectives.objective import Objective
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class Preset:
    """A function that returns an Experiment, as a preset of its name: `@Preset def gpt2_small()` is gpt2-small."""

    recipe: Callable[..., Experiment]

    def __call__(self, *args: Any, **kwargs: Any) -> Experiment:
        """Returns the experiment, which has the preset's name."""
        return dataclasses.replace(self.recipe(*args, **kwargs), name=self.name)

    @property
    def name(self) -> str:
        """The function's, with dashes."""
        return self.recipe.__name__.replace("_", "-")

    @property
    def summary(self) -> str:
        """What it is, in a line."""
        return (self.recipe.__doc__ or "").strip().splitlines()[0]


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

SHORT_ENCODER: dict[str, Any] = {
    "vocab_size": SHORT_VOCABULARY,
    "context_length": 256,
    "width": 128,
    "num_layers": 2,
    "num_heads": 4,
    "mlp_width": 512,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
"""The small encoders: what BERT's kin have in common."""


def both_sides(*, width: int, num_layers: int, num_heads: int) -> dict[str, Any]:
    """Returns the sizes of an encoder and a decoder that are alike, by their fields' names; the MLP is the usual."""
    sizes = {"num_{}_layers": num_layers, "num_{}_heads": num_heads, "{}_mlp_width": 4 * width}
    sides = {name.format(side): size for name, size in sizes.items() for side in ("encoder", "decoder")}
    return {"width": width, **sides}


def small(
    model: Architecture,
    objective: Objective,
    *,
    data: DataConfig = TextConfig(tfds="python_stdlib", tokenizer="bpe"),
    learning_rate: float = 1e-2,
    steps: int = 1000,
    batch_size: int = 8,
    seq_len: int = 256,
    eval_every: int = 250,
    eval_batches: int | None = 100,
) -> Experiment:
    """A model that trains in minutes on a CPU, by default on the source of Python's standard library."""
    return Experiment(
        name="",  # the preset's
        model=model,
        objective=objective,
        data=data,
        optimizer=OptimizerConfig(
            name="muon", learning_rate=learning_rate, warmup_steps=50, schedule="linear", final_fraction=0.0
        ),
        train=TrainConfig(
            steps=steps, batch_size=batch_size, seq_len=seq_len, eval_every=eval_every, eval_batches=eval_batches
        ),
        checkpoint=CheckpointConfig(every=eval_every),
        execution=Execution(unroll=0),
    )


def short(model: Architecture, objective: Objective, **settings: Any) -> Experiment:
    """A small encoder or encoder-decoder: short rows, many of them, at a lower rate; `settings` are those of `small`.

    A causal model learns from each token what follows it. These must first learn where to look, on either side or in
    another text, and until then guess by frequency. Few places to look at shorten that.
    """
    shorter = {"learning_rate": 5e-3, "steps": 1200, "batch_size": 32, "seq_len": 64}
    return small(model, objective, **(shorter | settings))


def linear(*, learning_rate: float, warmup_steps: int, **fields: Any) -> OptimizerConfig:
    """BERT's AdamW and that of its kin: a rate that falls linearly to 0; `fields` are what a paper has otherwise."""
    usual = {"schedule": "linear", "final_fraction": 0.0, "weight_decay": 0.01, "epsilon": 1e-6}
    return OptimizerConfig(learning_rate=learning_rate, warmup_steps=warmup_steps, **(usual | fields))


def study(model: Architecture, objective: Objective, *, batch_size: int, seq_len: int) -> Experiment:
    """A size of a scaling study that runs on a CPU: Muon, small batches, a rate that falls to 0, whatever the steps.

    Small models that are trained for minutes get further with Muon than with AdamW (docs/scaling-study.md), and the
    sooner attention finds its places, the smaller the budgets that follow a power law. The rate is constant up to the
    cooldown, so that one long run can be cooled down from several places.
    """
    experiment = small(model, objective, batch_size=batch_size, seq_len=seq_len)
    return dataclasses.replace(
        experiment,
        optimizer=dataclasses.replace(experiment.optimizer, schedule="wsd", cooldown_fraction=0.2),
        train=dataclasses.replace(experiment.train, eval_every=1000, eval_batches=200),
        checkpoint=CheckpointConfig(every=1000),
    )


def published(
    model: Architecture,
    objective: Objective,
    optimizer: OptimizerConfig,
    *,
    steps: float,
    batch_size: int,
    seq_len: int,
    data: TextConfig = ENGLISH,
) -> Experiment:
    """A paper's setting, computed in bfloat16; what is computed again is for the devices to say."""
    return Experiment(
        name="",  # the preset's
        model=model,
        objective=objective,
        data=data,
        optimizer=optimizer,
        train=TrainConfig(steps=round(steps), batch_size=batch_size, seq_len=seq_len, eval_every=1000, eval_batches=20),
        checkpoint=CheckpointConfig(every=1000),
        execution=Execution(dtype="bfloat16", remat="auto"),
    )
