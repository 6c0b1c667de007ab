"""Say what is said in a recording (Radford et al. 2022): Whisper's objective."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from transformer.data.audio.records import SpeechReading
from transformer.data.records import Record
from transformer.objectives.objective import Setting, TokenObjective


@dataclasses.dataclass(frozen=True)
class Transcription(TokenObjective):
    """A recording and its transcript; the decoder learns from the right tokens before each. --train.seq-len is the
    transcript's length."""

    name: ClassVar[str] = "transcription"
    kind: ClassVar[str] = "speech"

    def reading(self, seq_len: int) -> SpeechReading:
        return SpeechReading(seq_len)

    def target_length(self, seq_len: int) -> int:
        return seq_len

    def example(self, record: Record, rng: np.random.Generator, setting: Setting) -> dict[str, Any]:
        """Returns a spectrogram, and its transcript shifted right behind the model's start token.

        Args:
          record: `features`, `tokens`, `segment_ids` and `there`, as `SpeechRecords` has them.
          rng: not used.
          setting: gives the id that begins the decoder's input.
        """
        del rng
        tokens, segment_ids = record["tokens"], record["segment_ids"]
        shifted = np.concatenate([np.array([setting.decoder_start], np.int32), tokens[:-1]])
        return {
            "inputs": {
                "features": record["features"],
                "decoder_tokens": np.where(segment_ids > 0, shifted, np.int32(setting.vocabulary.pad)),
                "decoder_positions": np.arange(len(tokens), dtype=np.int32) * (segment_ids > 0),
                "decoder_segment_ids": segment_ids,
            },
            "targets": tokens,
            "weights": (segment_ids > 0).astype(np.float32) * record["there"],
        }
