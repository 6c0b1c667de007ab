"""Say how a text goes on, given its beginning seen whole (Liu et al. 2018; Raffel et al. 2020, T5, section 3.2.1)."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from transformer.data.records import Record
from transformer.data.text.records import TextReading
from transformer.objectives.causal_lm import CausalLM
from transformer.objectives.objective import Setting, TokenObjective


@dataclasses.dataclass(frozen=True)
class PrefixLM(TokenObjective):
    """Prefix language modelling over packed windows: each document of a window is cut in two, in a place of its own.

    The tokens before the cut see each other, before and after, and are no targets; those after it are, as in causal
    language modelling. So half of the tokens are targets on average.
    """

    name: ClassVar[str] = "prefix_lm"
    kind: ClassVar = "decoder"

    def reading(self, seq_len: int) -> TextReading:
        return CausalLM().reading(seq_len)

    def example(self, record: Record, rng: np.random.Generator, setting: Setting | None = None) -> dict[str, Any]:
        """Returns a causal example, [T], with the prefixes among its inputs: they weigh nothing.

        A prefix of a document of n tokens has 1 to n - 1 of them, each number as likely: T5's released code
        (`random_prefix_noise_mask`). With one token, <s>, it is a causal model's.

        Args:
          record: `tokens`, `segment_ids` and `positions`, int32 [T + 1]; segment 0 is padding.
          rng: decides where the documents are cut.
          setting: not used: no special is needed.
        """
        example = CausalLM().example(record, rng, setting)
        inputs, segments = example["inputs"], record["segment_ids"]
        lengths = np.bincount(segments)  # of each segment, and of padding, which has no prefix
        prefix_lengths = 1 + (rng.random(len(lengths)) * (lengths - 1)).astype(np.int32)
        prefix_lengths[0] = 0
        after = inputs["positions"] - prefix_lengths[inputs["segment_ids"]]
        inputs["prefix"] = (after < 0).astype(np.int32)
        # A prefix's last token says what follows it, without having seen it.
        example["weights"] *= after >= -1
        return example
