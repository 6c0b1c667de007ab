"""Records of speech: spectrograms of a model's size, and the tokens of what is said."""

import dataclasses

import numpy as np

from transformer.data.audio.augmentation import Augmentation
from transformer.data.audio.log_mel import HOP, RATE, log_mel
from transformer.data.audio.source import Clip, SoundSource
from transformer.data.damaged import Damaged
from transformer.data.records import Reading, Record, Records
from transformer.data.tokenized import framed, padded
from transformer.errors import UserError
from transformer.tokenizers.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class SpeechReading(Reading):
    """How an objective reads recordings."""

    length: int
    """T: tokens of a transcript, at most, with what frames it."""

    def padding(self, input_size: tuple[int, ...]) -> Record:
        return {
            "features": np.zeros(input_size, np.float32),
            "tokens": np.zeros(self.length, np.int32),
            "segment_ids": np.zeros(self.length, np.int32),
            "there": np.zeros((), np.float32),
        }


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
        *,
        augmentation: Augmentation | None = None,
    ):
        """Records of a source.

        Args:
          source: the recordings.
          input_size: (frames, bins) of the model's spectrograms.
          reading: what an objective reads.
          damaged: what happens to recordings that cannot be read, or are too long.
          tokenizer: of transcripts.
          augmentation: how they are varied; None: not at all.
        """
        self._source, self._input_size, self._reading = source, input_size, reading
        self._damaged, self._tokenizer, self._augmentation = damaged, tokenizer, augmentation

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        return self._record(index, None)

    def draw(self, index: int, rng: np.random.Generator) -> Record:
        """Returns record `index`, varied by the generator."""
        return self._record(index, rng)

    def _record(self, index: int, rng: np.random.Generator | None) -> Record:
        clip, length = self._source[index], self._reading.length
        try:
            features, ids = self._features(clip, rng), self._ids(clip)
        except UserError as error:
            self._damaged.note(error, clip.name)
            zeros = np.zeros(length, np.int32)
            record = {"features": np.zeros(self._input_size, np.float32), "tokens": zeros, "segment_ids": zeros}
            return record | {"there": np.asarray(np.float32(0))}
        return {"features": features, **padded(ids, length, self._tokenizer), "there": np.asarray(np.float32(1))}

    def _features(self, clip: Clip, rng: np.random.Generator | None) -> np.ndarray:
        """Returns a recording's spectrogram, silence behind it, as Whisper's authors fill up windows."""
        frames, bins = self._input_size
        samples = clip.samples()
        if len(samples) > frames * HOP:
            raise UserError(
                f"{clip.name}: {len(samples) / RATE:.2f} seconds, and the model hears {frames * HOP / RATE:g} at once: "
                "cut it"
            )
        augmentation = self._augmentation
        if augmentation is not None and rng is not None:
            samples = augmentation.sound(samples, frames * HOP, rng)
        features = log_mel(samples, bins, least=frames)
        if augmentation is not None and rng is not None:
            features = augmentation.spectrogram(features, -(-len(samples) // HOP), rng)
        return features

    def _ids(self, clip: Clip) -> list[int]:
        before, own, after = framed(clip.transcript, self._tokenizer)
        ids = [*before[1:], *own, *after]  # the first is the start token
        if len(ids) > self._reading.length:
            raise UserError(
                f"{clip.name}: a transcript of {len(ids)} tokens, and --train.seq-len is {self._reading.length}: raise "
                "it"
            )
        return ids
