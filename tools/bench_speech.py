"""Transcription against Transformers' `generate`, side by side: python tools/bench_speech.py FOLDER --audio *.wav.

Both hear the same recordings with the same weights, greedily, from samples to tokens, in float32 and with as many
threads. They take turns, so that a machine whose speed drifts gives both the same weather; what to quote is the ratio.
"""

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from transformer import checks, command
from transformer.chips import device_name
from transformer.errors import UserError

if TYPE_CHECKING:
    import numpy as np

Tokens = list[list[int]]
"""What was said in each recording."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Measure how fast recordings of up to 30 s are transcribed; nothing else should be running."""

    folder: tyro.conf.Positional[str]
    """A Whisper model in the Hugging Face format, with its tokenizer."""
    audio: tuple[str, ...]
    """Sound files."""
    batch_sizes: tuple[int, ...] = (1, 8)
    """Recordings that are heard together."""
    language: str = "en"
    """The language that is spoken; a model of English alone is told none."""
    max_new_tokens: int = 60
    """Tokens of a recording, at most."""
    rounds: int = 5
    """Turns that each contender takes."""


def main(args: list[str]) -> None:
    """Runs the command line."""
    flags = command.parse(Command, args, prog="tools/bench_speech.py")
    with command.flags_named(Command):
        checks.at_least(flags, 1, "max_new_tokens", "rounds")
    command.start_jax()
    import jax

    from transformer.data.audio.sound import load
    from transformer.paths import expanded

    recordings = [load(expanded(file)) for file in flags.audio]
    seconds, threads = sum(map(len, recordings)) / 16_000, len(os.sched_getaffinity(0))
    device = device_name(jax.devices()[0].device_kind)
    print(f"{len(recordings)} recordings, {seconds:.1f} s, float32, {device}, {threads} threads each")
    ours, theirs = our_transcriber(flags), their_transcriber(flags, threads)
    for size in flags.batch_sizes:
        compare(recordings, size, ours, theirs, flags.rounds)


Transcribe = Callable[[list["np.ndarray"], int], Tokens]
"""(recordings, how many are heard together) -> tokens."""


def our_transcriber(flags: Command) -> Transcribe:
    """Returns this package's transcription of recordings."""
    from transformer.data.audio.log_mel import log_mel
    from transformer.inference.restored import restore
    from transformer.inference.speech.transcriber import Transcriber
    from transformer.inference.speech.windows import GREEDY
    from transformer.interop import convert

    with tempfile.TemporaryDirectory() as run:
        source = Path(flags.folder).expanduser()
        convert.save(convert.import_folder(source), source, Path(run) / "run")
        transcriber = Transcriber(restore(Path(run) / "run"), log_mel)
    options: dict[str, Any] = {"most": flags.max_new_tokens, "fallback": GREEDY, "language": flags.language}

    def transcribe(recordings: list["np.ndarray"], size: int) -> Tokens:
        return [heard.tokens for heard in transcriber(recordings, batch_size=size, **options)]

    return transcribe


def their_transcriber(flags: Command, threads: int) -> Transcribe:
    """Returns Transformers' transcription: its feature extractor, and `generate` of a batch after the other."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    processor: Any = transformers.WhisperProcessor.from_pretrained(flags.folder)
    loaded: Any = transformers.WhisperForConditionalGeneration.from_pretrained(flags.folder, dtype="float32")
    model, settings = loaded.eval(), loaded.generation_config
    options: dict[str, Any] = {"max_new_tokens": flags.max_new_tokens, "do_sample": False, "num_beams": 1}
    if settings.is_multilingual:
        options |= {"language": flags.language, "task": "transcribe"}
    last_word = settings.eos_token_id  # the specials come after it

    def transcribe(recordings: list["np.ndarray"], size: int) -> Tokens:
        said: Tokens = []
        for start in range(0, len(recordings), size):
            batch = processor(recordings[start : start + size], sampling_rate=16_000, return_tensors="pt")
            with torch.inference_mode():
                rows = model.generate(batch.input_features, **options).tolist()
            said += [[token for token in row if token < last_word] for row in rows]
        return said

    return transcribe


def compare(recordings: list["np.ndarray"], size: int, ours: Transcribe, theirs: Transcribe, rounds: int) -> None:
    """Prints the medians of both in seconds, and of the ratio of each round; UserError where they hear differently."""
    said, wanted = ours(recordings, size), theirs(recordings, size)  # compiles, too
    differing = [number for number, (have, want) in enumerate(zip(said, wanted, strict=True), 1) if have != want]
    if differing:
        raise UserError(f"{size} together: recordings {', '.join(map(str, differing))} do not give the same tokens")
    pairs = [(seconds_of(ours, recordings, size), seconds_of(theirs, recordings, size)) for _ in range(rounds)]
    ratios = [their_time / our_time for our_time, their_time in pairs]
    our_time, their_time, ratio = (statistics.median(values) for values in (*zip(*pairs, strict=True), ratios))
    print(
        f"{size} together, {sum(map(len, said))} equal tokens: {our_time:.2f} s, Transformers {their_time:.2f} s, "
        f"{ratio:.2f} times as fast (from {min(ratios):.2f} to {max(ratios):.2f}, {rounds} rounds)"
    )


def seconds_of(transcribe: Transcribe, recordings: list["np.ndarray"], size: int) -> float:
    """Returns how long a transcription takes."""
    begun = time.perf_counter()
    transcribe(recordings, size)
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
