"""Predict the next token (Bengio et al. 2003; GPT's pretraining objective)."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from transformer import checks
from transformer.data.records import Record
from transformer.data.text.records import TextReading
from transformer.objectives.objective import Setting, TokenObjective


@dataclasses.dataclass(frozen=True)
class CausalLM(TokenObjective):
    """Causal language modelling over packed windows."""

    name: ClassVar[str] = "causal_lm"
    kind: ClassVar = "decoder"
    scores_text: ClassVar[bool] = True

    packing: Literal["separate", "concatenated"] = "separate"
    """How the documents of a row see each other: separate (each sees itself alone, with positions of its own), or
    concatenated (one text, attended across, positions running through the row: GPT-2 and GPT-3, Brown et al. 2020,
    appendix B), where attention on GPUs needs no mask but causality. Both have the same targets."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice(self, "packing", _INPUTS)

    def reading(self, seq_len: int) -> TextReading:
        """A window has one token more, for the last target, which begins the next window's inputs."""
        return TextReading("windows", seq_len + 1, overlap=1)

    def example(self, record: Record, rng: np.random.Generator, setting: Setting | None = None) -> dict[str, Any]:
        """Returns a window's inputs and the token after each, [T].

        Args:
          record: `tokens`, `segment_ids` and `positions`, int32 [T + 1]; segment 0 is padding.
          rng: not used: every token is a target.
          setting: not used: no special is needed.
        """
        del rng, setting
        return self._packed(record)

    def examples(
        self, records: Record, rngs: Sequence[np.random.Generator], setting: Setting | None = None
    ) -> dict[str, Any]:
        del rngs, setting
        return self._packed(records)

    def _packed(self, records: Record) -> dict[str, Any]:
        example = shifted(records)
        return example | {"inputs": {name: example["inputs"][name] for name in _INPUTS[self.packing]}}


_INPUTS = {"separate": ("tokens", "positions", "segment_ids"), "concatenated": ("tokens",)}
"""Packing -> what the model reads of a window."""


def shifted(record: Record) -> dict[str, Any]:
    """Returns the causal example of a record, or of many: the last axis is the text's."""
    segments = record["segment_ids"]
    inputs = {name: record[name][..., :-1] for name in ("tokens", "positions", "segment_ids")}
    # A document's first token is not predicted from the document before.
    weights = (segments[..., 1:] == segments[..., :-1]) & (segments[..., 1:] > 0)
    return {"inputs": inputs, "targets": record["tokens"][..., 1:], "weights": weights.astype(np.float32)}
