"""Records of speech: spectrograms of a model's size, and the tokens of what is said."""

import dataclasses

import numpy as np

from transformer.data.audio.log_mel import HOP, RATE, log_mel
from transformer.data.audio.source import Clip, SoundSource
from transformer.data.damaged import Damaged
from transformer.data.records import Reading, Record, Records
from transformer.errors import UserError
from transformer.tokenizers.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class SpeechReading(Reading):
    """How an objective reads recordings."""

    length: int
    """T: tokens of a transcript, at most, with what frames it."""


class SpeechRecords(Records):
    """Record i: `features` float32 [frames, bins], `tokens` and `segment_ids` int32[T], `there` (0: it is left out).

    The tokens are all that follows the model's start token: the rest of the tokenizer's own prefix, as Whisper's task,
    the transcript, and its end. What is left out is all zeros.
    """

    def __init__(
        self,
        source: SoundSource,
        input_size: tuple[int, int],
        reading: SpeechReading,
        damaged: Damaged,
        tokenizer: Tokenizer,
    ):
        """Records of a source.

        Args:
          source: the recordings.
          input_size: (frames, bins) of the model's spectrograms.
          reading: what an objective reads.
          damaged: what happens to recordings that cannot be read, or are too long.
          tokenizer: of transcripts.
        """
        self._source, self._input_size, self._reading = source, input_size, reading
        self._damaged, self._tokenizer = damaged, tokenizer

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        clip, length = self._source[index], self._reading.length
        features = np.zeros(self._input_size, np.float32)
        tokens, segment_ids = np.zeros(length, np.int32), np.zeros(length, np.int32)
        try:
            features, ids = self._features(clip), self._ids(clip)
        except UserError as error:
            self._damaged.note(error, clip.name)
            there = np.float32(0)
        else:
            tokens[:] = self._tokenizer.pad_id
            tokens[: len(ids)], segment_ids[: len(ids)] = ids, 1
            there = np.float32(1)
        record = {"features": features * there, "tokens": tokens, "segment_ids": segment_ids, "there": there}
        return {name: np.asarray(value) for name, value in record.items()}

    def _features(self, clip: Clip) -> np.ndarray:
        """Returns a recording's spectrogram, silence behind it, as Whisper's authors fill up windows."""
        frames, bins = self._input_size
        samples = clip.samples()
        if len(samples) > frames * HOP:
            raise UserError(
                f"{clip.name}: {len(samples) / RATE:.2f} seconds, and the model hears {frames * HOP / RATE:g} at once: "
                "cut it, or leave such recordings out with --data.skip-damaged"
            )
        window = np.zeros(frames * HOP, samples.dtype)
        window[: len(samples)] = samples
        return log_mel(window, bins)

    def _ids(self, clip: Clip) -> list[int]:
        before, after = self._tokenizer.template()
        # A tokenizer that frames a text at both ends has a speech model's prefix, whose first is the start token.
        before, after = (before[1:], after) if after else ([], [self._tokenizer.eos_id])
        ids = [*before, *self._tokenizer.encode(clip.transcript), *after]
        if len(ids) > self._reading.length:
            raise UserError(
                f"{clip.name}: a transcript of {len(ids)} tokens, and --train.seq-len is {self._reading.length}: raise "
                "it, or leave such recordings out with --data.skip-damaged"
            )
        return ids
