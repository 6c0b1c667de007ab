"""Errors of characters and of words: how far what a speech model says, greedily, is from a dataset's transcripts."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from transformer.data.audio.dataset import SpeechDataset
from transformer.inference.restored import Restored
from transformer.inference.rows import batches
from transformer.inference.speech.windows import GREEDY, WindowDecoder


@dataclasses.dataclass(frozen=True)
class Transcribed:
    """What is said in a recording, and what a model heard."""

    transcript: str
    answer: str

    @property
    def character_errors(self) -> int:
        """Characters to insert, delete or replace, at least, to come from one to the other."""
        return edit_distance(self.transcript, self.answer)

    @property
    def word_errors(self) -> int:
        """The same of words, which white space sets apart."""
        return edit_distance(self.transcript.split(), self.answer.split())


def transcribed(
    restored: Restored,
    dataset: SpeechDataset,
    *,
    limit: int | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Iterator[Transcribed]:
    """Yields the validation recordings of a dataset, one after the other, decoded greedily in one window each.

    Args:
      restored: a speech model.
      dataset: opened for it, with its tokenizer.
      limit: recordings, from the front; None: all.
      batch_size: recordings that are decoded together.
      progress: whether to show a progress bar.
    """
    decoder = WindowDecoder(restored)
    before, after = restored.tokenizer.template()
    prompt = before if after else [decoder.vocabulary.start]  # as in training: `SpeechRecords`
    records = dataset.validation
    indices = range(len(records))[:limit]
    with tqdm(total=len(indices), desc="transcribe", disable=not progress) as bar:
        for chosen, filled in batches(indices, batch_size):
            batch = {index: records[index] for index in chosen}
            memory_BSD = decoder.encode(np.stack([batch[index]["features"] for index in filled]))
            most = len(batch[chosen[0]]["tokens"])
            windows = decoder(memory_BSD, [prompt] * len(filled), times=False, most=most, fallback=GREEDY)
            for record, window in zip(batch.values(), windows, strict=False):
                if record["there"]:
                    yield Transcribed(dataset.transcript(record), restored.tokenizer.decode(window.tokens))
            bar.update(len(chosen))


def character_error_rate(pairs: Sequence[Transcribed]) -> float:
    """Returns the errors of all together, for each character of the transcripts: of none, for one."""
    return sum(pair.character_errors for pair in pairs) / max(1, sum(len(pair.transcript) for pair in pairs))


def word_error_rate(pairs: Sequence[Transcribed]) -> float:
    """Returns the errors of all together, for each word of the transcripts: of none, for one."""
    return sum(pair.word_errors for pair in pairs) / max(1, sum(len(pair.transcript.split()) for pair in pairs))


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Returns the fewest characters, or words of lists, to insert, delete or replace (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for i, mine in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, theirs in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (mine != theirs))
    return row[-1]
