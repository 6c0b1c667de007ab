"""An experiment made so small that it runs in seconds, on made-up text: what a check of meshes computes with."""

import dataclasses
import random
from pathlib import Path

from transformer.data.pairs.rows import PairReading
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.models.shrinking import shrunk
from transformer.mup.parametrization import MupConfig
from transformer.training.experiment import Experiment
from transformer.transfer.config import InitConfig

LENGTH, WORDS = 32, 384
_SYLLABLES = ("ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "ro", "su", "ta", "ve")


def shrunk_experiment(experiment: Experiment, folder: Path, *, devices: int) -> Experiment:
    """Returns the experiment with a small model, short rows and a made-up corpus of bytes; its structure stays.

    Args:
      experiment: of any model that reads tokens.
      folder: where the corpus and what is made of it go.
      devices: two rows each are in a microbatch.

    Raises:
      UserError: the data are no text, or the model's heads have no small size.
    """
    if not isinstance(experiment.data, TextConfig):
        raise UserError("--shrink makes up text, and this experiment's data are none: leave --shrink out")
    train, objective = experiment.train, experiment.objective
    length = min(train.seq_len, LENGTH)
    shorter = {
        "chunk": lambda chunk: max(chunk * length // train.seq_len, 1),
        "target_len": lambda target_len: min(target_len, length),
    }
    values = {name: getattr(objective, name, None) for name in shorter}
    objective = dataclasses.replace(
        objective, **{name: shorter[name](value) for name, value in values.items() if value is not None}
    )
    pairs = isinstance(objective.reading(length), PairReading)
    return dataclasses.replace(
        experiment,
        model=shrunk(experiment.model, vocab_size=WORDS, length=length, old_length=train.seq_len),
        objective=objective,
        data=TextConfig(path=str(_corpus(folder, pairs=pairs)), tokenizer="bytes", cache_dir=str(folder / "cache")),
        mup=MupConfig(),
        train=dataclasses.replace(
            train, seq_len=length, batch_size=2 * devices * train.accumulation, skip_samples=(), steps=8
        ),
        init=InitConfig(),
    )


def _corpus(folder: Path, *, pairs: bool) -> Path:
    """Writes a corpus that is the same every time; returns its path."""
    rng = random.Random(0)

    def sentence(words: int) -> str:
        return " ".join("".join(rng.choices(_SYLLABLES, k=rng.randint(1, 3))) for _ in range(words)) + "."

    if pairs:
        lines = [f"{sentence(rng.randint(2, 6))}\t{sentence(rng.randint(2, 6))}\n" for _ in range(2000)]
        path = folder / "pairs.tsv"
        path.write_text("".join(lines))
        return path
    texts = folder / "texts"
    texts.mkdir()
    for number in range(100):
        (texts / f"{number:03}.txt").write_text(" ".join(sentence(rng.randint(1, 8)) for _ in range(20)) + "\n")
    return texts
