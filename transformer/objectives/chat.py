"""Answer in a conversation: supervised fine-tuning of a chat model, with the loss on answers alone."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from transformer.data.chats.reading import ChatReading
from transformer.data.records import Record
from transformer.objectives.causal_lm import shifted
from transformer.objectives.objective import Setting, TokenObjective


@dataclasses.dataclass(frozen=True)
class Chat(TokenObjective):
    """Causal language modelling over rows of conversations; only what the assistant says is a target, up to the special
    that ends its turn. What a user says, and the template's own text, weigh nothing."""

    name: ClassVar[str] = "chat"
    kind: ClassVar = "decoder"
    fine_tunes: ClassVar[bool] = True

    def reading(self, seq_len: int) -> ChatReading:
        """A row has one token more, for the last target."""
        return ChatReading(seq_len + 1)

    def example(self, record: Record, rng: np.random.Generator, setting: Setting | None = None) -> dict[str, Any]:
        """Returns a row's inputs and the token after each, [T].

        Args:
          record: `tokens`, `segment_ids`, `positions` and `answers`, int32 [T + 1]; segment 0 is padding.
          rng: not used.
          setting: not used.
        """
        del rng, setting
        return _answers(record)

    def examples(
        self, records: Record, rngs: Sequence[np.random.Generator], setting: Setting | None = None
    ) -> dict[str, Any]:
        del rngs, setting
        return _answers(records)


def _answers(record: Record) -> dict[str, Any]:
    """Returns the example of a record, or of many, as a causal model's: of its targets, answers alone weigh."""
    example = shifted(record)
    return example | {"weights": example["weights"] * record["answers"][..., 1:].astype(np.float32)}
