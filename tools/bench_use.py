"""Classification of texts against Transformers' pipeline, side by side: python tools/bench_use.py HF_FOLDER.

Both read the same texts of mixed length with the same weights, from strings to labels, in float32 and with as many
threads. They take turns, so that a machine whose speed drifts gives both the same weather; what to quote is the ratio.
"""

import dataclasses
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tyro

from transformer import checks, command
from transformer.chips import device_name
from transformer.errors import UserError

Classify = Callable[[list[str]], list[dict[str, Any]]]
"""Texts -> the best class of each."""
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Command:
    """Measure how fast texts are classified; nothing else should be running."""

    folder: tyro.conf.Positional[str]
    """An encoder in the Hugging Face format, with its tokenizer; without a head of classes it gets a random one."""
    texts: int = 1000
    """Texts, of 4 to 200 words, evenly in the logarithm."""
    batch_size: int = 32
    """Texts that a model reads together."""
    rounds: int = 3
    """Turns that each contender takes."""
    stream: int = 0
    """Texts, of 4 to 10 words, of a stream that is read after that, to see whether memory grows; 0: none."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/bench_use.py")
    with command.flags_named(Command):
        checks.at_least(flags, 1, "texts", "batch_size", "rounds")
        checks.at_least(flags, 0, "stream")
    command.start_jax()
    import jax

    from transformer.tasks.pipeline import pipeline

    threads, device = len(os.sched_getaffinity(0)), device_name(jax.devices()[0].device_kind)
    print(f"{flags.texts} texts, {flags.batch_size} together, float32, {device}, {threads} threads each")
    with tempfile.TemporaryDirectory() as scratch:
        folder, theirs = their_pipeline(flags, threads, Path(scratch))
        ours = pipeline("text-classification", model=folder, batch_size=flags.batch_size)
    compare([*texts(flags.texts)], ours, theirs, flags.rounds)
    if flags.stream:
        follow(ours, flags.stream)


def their_pipeline(flags: Command, threads: int, scratch: Path) -> tuple[Path, Classify]:
    """Returns a folder with a head of classes, and Transformers' pipeline on it."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    source = str(Path(flags.folder).expanduser())
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source, dtype="float32")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    for part in (model, tokenizer):
        part.save_pretrained(scratch)
    made: Any = transformers.pipeline(
        "text-classification", model=model.eval(), tokenizer=tokenizer, device=-1, batch_size=flags.batch_size
    )
    return scratch, made


def texts(count: int, most: int = 200) -> Iterator[str]:
    """Yields texts of mixed length, up to so many words, the same ones each time."""
    import numpy as np

    rng, words = np.random.default_rng(0), sorted({word for word in (__doc__ or "").split() if word.isalpha()})
    for length in np.exp(rng.uniform(np.log(4), np.log(most), count)).astype(int):
        yield " ".join(words[place] for place in rng.integers(len(words), size=length))


def compare(given: list[str], ours: Classify, theirs: Classify, rounds: int) -> None:
    """Prints the medians of both in seconds, and of the ratio of each round; UserError where their answers differ."""
    told, wanted = ours(given), theirs(given)  # compiles, too
    for number, (have, want) in enumerate(zip(told, wanted, strict=True)):
        close = abs(have["score"] - want["score"]) < _TOLERANCE
        if not close or (have["label"] != want["label"] and abs(want["score"] - 0.5) > _TOLERANCE):
            raise UserError(f"text {number}: {have} here, and {want} by Transformers")
    pairs = [(seconds_of(ours, given), seconds_of(theirs, given)) for _ in range(rounds)]
    ratios = [their_time / our_time for our_time, their_time in pairs]
    our_time, their_time, ratio = (statistics.median(values) for values in (*zip(*pairs, strict=True), ratios))
    print(
        f"equal answers: {our_time:.2f} s, Transformers {their_time:.2f} s, {ratio:.2f} times as fast "
        f"(from {min(ratios):.2f} to {max(ratios):.2f}, {rounds} rounds)"
    )


def seconds_of(classify: Classify, given: list[str]) -> float:
    """Returns how long all texts take."""
    begun = time.perf_counter()
    classify(given)
    return time.perf_counter() - begun


def follow(ours: Any, count: int) -> None:
    """Prints the memory of the process, now and at most, as a stream of texts is read, at each tenth of it."""
    for number, _ in enumerate(ours(texts(count, most=10)), 1):
        if number % max(count // 10, 1) == 0:
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            print(f"{number:,} texts: {resident_mib()} MiB, {most} at most so far", flush=True)


def resident_mib() -> int:
    """Returns the memory that the process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
