"""Tokens, or images, a second that a host makes into examples, by objective and number of worker processes, side by
side: python tools/bench_pipeline.py [masked spans images ...] [--workers 0 1 2].

The contenders are all open at once and take turns, so that a machine whose speed drifts gives all the same weather.
A figure is the median over rounds; what to quote is the ratio.
"""

import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import tyro

import configs
from transformer import command
from transformer.chips import device_name
from transformer.data.images.config import ImagesConfig
from transformer.training.experiment import Experiment

Objective = Literal["causal", "masked", "nsp", "words", "spans", "ul2", "denoising", "pairs", "digits", "images"]

PRESETS: dict[Objective, str] = {
    "causal": "gpt-python",
    "masked": "roberta-python",
    "nsp": "bert-python",
    "words": "spanbert-python",
    "spans": "t5-python",
    "ul2": "t5-ul2-python",
    "denoising": "bart-python",
    "pairs": "transformer-python",
    "digits": "vit-digits",
    "images": "vit-s16",
}


@dataclasses.dataclass(frozen=True)
class Command:
    """Measure the input pipeline on this machine; nothing else should be running."""

    objectives: tyro.conf.Positional[tuple[Objective, ...]] = ("causal", "masked", "nsp", "spans", "ul2", "pairs")
    """What examples are made for, on the embedded corpus; `digits`: scikit-learn's; `images`: photographs in JPEG of
    640 x 427 pixels, decoded, cropped at random to 224 x 224 and flipped."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Numbers of worker processes; 0: the thread of the training process."""
    seq_len: int = 512
    """Tokens of an example."""
    batch_size: int = 64
    """Examples of a batch."""
    rounds: int = 5
    """Turns that each contender takes."""
    seconds: float = 2.0
    """Length of a turn."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/bench_pipeline.py")
    print(f"batches of {flags.batch_size} x {flags.seq_len}, {device_name('cpu')}, {os.cpu_count()} cores")
    for objective in flags.objectives:
        measure(objective, flags)


def measure(objective: Objective, flags: Command) -> None:
    """Prints a line an objective: the median for each number of workers, and how it compares with the first."""
    from transformer.data.pipeline import iterate
    from transformer.training.session import Session

    experiment = shape(configs.get(PRESETS[objective]), flags)
    count, unit, scale = flags.batch_size, "images/s", 1.0
    if objective not in ("digits", "images"):
        count *= flags.seq_len + experiment.objective.target_length(flags.seq_len)
        unit, scale = "M tokens/s", 1e6
    with contextlib.ExitStack() as stack:
        if objective == "images":
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            experiment = dataclasses.replace(experiment, data=photographs(Path(folder)))
        rows = Session(experiment).training_rows
        made = {
            workers: stack.enter_context(iterate(rows, 0, **({"workers": workers} if workers else {})))
            for workers in flags.workers
        }
        for batches in made.values():
            next(batches)  # which waits for the workers to start
        rates = [
            {workers: rate(batches, workers, count, flags.seconds) for workers, batches in made.items()}
            for _ in range(flags.rounds)
        ]
    first = flags.workers[0]
    figures = (
        f"{workers} workers {statistics.median(turn[workers] for turn in rates) / scale:,.2f}"
        f" ({statistics.median(turn[workers] / turn[first] for turn in rates):.2f} x)"
        for workers in flags.workers
    )
    print(f"{objective:10} {unit}: {', '.join(figures)}", flush=True)


def shape(experiment: Experiment, flags: Command) -> Experiment:
    """Returns the preset with the lengths that are measured."""
    model: Any = experiment.model
    if hasattr(model, "context_length"):
        model = dataclasses.replace(model, context_length=max(flags.seq_len, model.context_length))
    train = dataclasses.replace(experiment.train, seq_len=flags.seq_len, batch_size=flags.batch_size)
    return dataclasses.replace(experiment, model=model, train=train)


def photographs(folder: Path) -> ImagesConfig:
    """Writes scikit-learn's two photographs many times into a folder a class, and returns the data that they are."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir()
        for number in range(100):
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg", quality=90)
    return ImagesConfig(path=str(folder), crop=(0.08, 1.0), flip=0.5)


def rate(batches: Iterator[Any], workers: int, count: int, seconds: float) -> float:
    """Returns tokens or images a second over a turn, `count` a batch, without what was made while others had theirs."""
    for _ in range(5 + 2 * workers):
        next(batches)
    begun, made = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        next(batches)
        made += 1
    return made * count / (time.perf_counter() - begun)


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
