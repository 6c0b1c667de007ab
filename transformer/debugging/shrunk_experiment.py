"""An experiment made so small that it runs in seconds, on made-up data: what a check of meshes computes with."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

from transformer.data.audio.config import AudioConfig
from transformer.data.dataset import DataConfig
from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.groups import GroupsReading
from transformer.data.examples.texts import TextsReading
from transformer.data.images.config import ImagesConfig
from transformer.data.images.embedded import Digits
from transformer.data.images.records import ImageReading
from transformer.data.kinds import survey
from transformer.data.pairs.rows import PairReading
from transformer.data.records import Reading
from transformer.data.text.config import TextConfig
from transformer.distillation.config import TeacherConfig
from transformer.errors import UserError
from transformer.models.shrinking import shrunk
from transformer.mup.parametrization import MupConfig
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.training.experiment import Experiment
from transformer.transfer.config import InitConfig

LENGTH, WORDS = 32, 384
_SYLLABLES = ("ba", "de", "fi", "go", "lu", "ma", "ne", "pi", "ro", "su", "ta", "ve")


_EXAMPLES: dict[type, dict[str, Any]] = {
    TextsReading: {"embedded": "docstrings"},
    GroupsReading: {"embedded": "summaries", "pair_field": "pair"},
}
"""What an objective reads of examples -> the embedded set that has such."""


def shrunk_experiment(experiment: Experiment, folder: Path, *, devices: int) -> Experiment:
    """Returns the experiment with a small model, short rows and made-up data; its structure stays, without a teacher.

    Text is a corpus of bytes; a task's examples are an embedded set; images are drawn shapes with captions, or digits;
    speech is tones.

    Args:
      experiment: of any model.
      folder: where the corpus and what is made of it go.
      devices: two rows each are in a microbatch.

    Raises:
      UserError: there are no made-up data of this kind, or the model's heads have no small size.
    """
    train, objective = experiment.train, experiment.objective
    length, rows = min(train.seq_len, LENGTH), 2 * devices * train.accumulation
    # Of tokens a row; of a loss over the whole batch, of its rows.
    new, old = (length, train.seq_len) if objective.sums_over_examples else (rows, train.batch_size)
    shorter = {
        "chunk": lambda chunk: max(chunk * new // old, 1),
        "target_len": lambda target_len: min(target_len, length),
    }
    values = {name: getattr(objective, name, None) for name in shorter}
    objective = dataclasses.replace(
        objective, **{name: shorter[name](value) for name, value in values.items() if value is not None}
    )
    data = _data(experiment.data, objective.reading(length), folder)
    told = survey(data, objective.reading(length))
    labels = Digits.labels if isinstance(data, ImagesConfig) else () if told is None else told.labels
    texts = objective.input_length(length) // objective.text_length(length)
    model = shrunk(
        dataclasses.replace(experiment.model, labels=()) if experiment.model.labels else experiment.model,
        vocab_size=WORDS,
        length=texts * length,
        old_length=texts * train.seq_len,
        end_id=ByteTokenizer().eos_id,
        classes=len(labels) or None,
    )
    return dataclasses.replace(
        experiment,
        model=dataclasses.replace(model, **objective.model_fields(labels)),
        objective=objective,
        data=data,
        mup=MupConfig(),
        train=dataclasses.replace(train, seq_len=length, batch_size=rows, skip_samples=(), steps=8),
        init=InitConfig(),
        teacher=TeacherConfig(),
    )


def _data(config: DataConfig, reading: Reading, folder: Path) -> DataConfig:
    """Returns made-up data of the same kind."""
    cache_dir = str(folder / "cache")
    if isinstance(config, TextConfig):
        path = str(_corpus(folder, pairs=isinstance(reading, PairReading)))
        return TextConfig(path=path, tokenizer="bytes", cache_dir=cache_dir)
    nothing = {"path": None, "tokenizer": "bytes", "cache_dir": cache_dir, "workers": 0}
    if isinstance(config, ImagesConfig):
        embedded = "shapes" if isinstance(reading, ImageReading) and reading.captions else "digits"
        return dataclasses.replace(config, tfds=None, embedded=embedded, edge=None, **nothing)
    if isinstance(config, AudioConfig):
        return dataclasses.replace(config, **nothing)
    if isinstance(config, ExamplesConfig) and type(reading) in _EXAMPLES:
        return ExamplesConfig(**_EXAMPLES[type(reading)], tokenizer="bytes", cache_dir=cache_dir)
    raise UserError(f"--shrink makes up no {config.kind}, which this experiment's data are: leave --shrink out")


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
    # Shorter than a row, so that rows hold several documents and the borders between them.
    texts = [" ".join(sentence(rng.randint(1, 2)) for _ in range(rng.randint(1, 4))) for _ in range(2000)]
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path
