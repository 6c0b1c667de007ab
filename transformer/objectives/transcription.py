"""Say what is said in a recording (Radford et al. 2022): Whisper's objective."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from transformer.data.audio.records import SpeechReading
from transformer.data.records import Record
from transformer.objectives.encoder_decoder import decoder_inputs
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
        return _example(record, setting)

    def examples(self, records: Record, rngs: Sequence[np.random.Generator], setting: Setting) -> dict[str, Any]:
        del rngs
        return _example(records, setting)


def _example(record: Record, setting: Setting) -> dict[str, Any]:
    """Returns the example of a record, or of many: the last axis of tokens is the text's."""
    tokens, segment_ids = record["tokens"], record["segment_ids"]
    there = segment_ids > 0
    positions = np.arange(tokens.shape[-1], dtype=np.int32) * there
    return {
        "inputs": {"features": record["features"], **decoder_inputs(tokens, positions, segment_ids, setting)},
        "targets": tokens,
        "weights": there.astype(np.float32) * record["there"][..., None],
    }
