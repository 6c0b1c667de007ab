"""Say one text given another: translation (Vaswani et al. 2017), summaries, answers."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from transformer import checks
from transformer.data.pairs.rows import PairReading
from transformer.data.records import Record
from transformer.objectives.encoder_decoder import decoder_inputs
from transformer.objectives.objective import Setting, TokenObjective


@dataclasses.dataclass(frozen=True)
class Seq2Seq(TokenObjective):
    """Pairs of a source and a target, several in a row; the decoder learns from the right words before each."""

    name: ClassVar[str] = "seq2seq"
    kind: ClassVar = "encoder_decoder"

    label_smoothing: float = 0.1
    """Probability mass spread evenly over the vocabulary (Vaswani et al. 2017, section 5.4)."""
    target_len: int | None = None
    """Tokens of a row's targets; None: as many as --train.seq-len."""
    begin: bool = False
    """Whether sources and targets begin with <s> (BART), or only end with </s> (T5, Marian, Vaswani et al.)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.at_least(self, 1, "target_len")

    @property
    def begins_source(self) -> bool:
        return self.begin

    def reading(self, seq_len: int) -> PairReading:
        return PairReading(seq_len, target_length=self.target_length(seq_len), begin=self.begin)

    def target_length(self, seq_len: int) -> int:
        return seq_len if self.target_len is None else self.target_len

    def example(self, record: Record, rng: np.random.Generator, setting: Setting) -> dict[str, Any]:
        """Returns a row of pairs: equal segment ids tell which target belongs to which source.

        Args:
          record: `tokens`, `positions`, `segment_ids`, int32[S], of the sources, and `target_...`, int32[T], of the
            targets; segment 0 is padding.
          rng: not used.
          setting: gives the id that begins the decoder's input.
        """
        del rng
        return _example(record, setting)

    def examples(self, records: Record, rngs: Sequence[np.random.Generator], setting: Setting) -> dict[str, Any]:
        del rngs
        return _example(records, setting)


def _example(record: Record, setting: Setting) -> dict[str, Any]:
    """Returns the example of a record, or of many: the last axis is the text's."""
    targets, positions, segment_ids = (record[f"target_{name}"] for name in ("tokens", "positions", "segment_ids"))
    return {
        "inputs": {
            **{name: record[name] for name in ("tokens", "positions", "segment_ids")},
            **decoder_inputs(targets, positions, segment_ids, setting),
        },
        "targets": targets,
        "weights": (segment_ids > 0).astype(np.float32),
    }
