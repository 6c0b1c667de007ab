"""How an objective reads conversations."""

import dataclasses

import numpy as np

from transformer.data.records import Reading, Record


@dataclasses.dataclass(frozen=True)
class ChatReading(Reading):
    """Rows of whole conversations."""

    length: int
    """Tokens of a row. A longer conversation is cut after so many; one that then has no answer is left out."""

    def padding(self, input_size: tuple[int, ...]) -> Record:
        del input_size
        return {name: np.zeros(self.length, np.int32) for name in ("tokens", "positions", "segment_ids", "answers")}
