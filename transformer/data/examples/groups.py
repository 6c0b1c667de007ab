"""Groups of texts whose vectors are compared: two that belong together, a third that does not, or two and a score."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.ragged import FramedTexts, no_tokens
from transformer.data.examples.reading import ExampleReading
from transformer.data.examples.rows import Row
from transformer.data.examples.texts import number
from transformer.data.records import LengthRecords, Record
from transformer.errors import UserError
from transformer.tokenizers.framing import Length
from transformer.tokenizers.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class GroupsReading(ExampleReading):
    """How a task reads groups of texts."""

    scored: bool = False
    """Whether a pair has a number that says how alike its texts are, in the place of a label."""
    negatives: bool = False
    """Whether each group has a third text, which does not belong to the first."""

    @property
    def size(self) -> int:
        """K: texts of a group."""
        return 3 if self.negatives else 2

    def key(self, row: Row, config: ExamplesConfig) -> str:
        """A row's first text: equal ones are in one split."""
        return self.texts(row, config)[0]

    def texts(self, row: Row, config: ExamplesConfig) -> tuple[str, ...]:
        if config.pair_field is None or (self.negatives and config.negative_field is None):
            lacking = "pair" if config.pair_field is None else "negative"
            raise UserError(f"name the field with the {lacking} text: --data.{lacking}-field")
        fields = {"--data.text-field": config.text_field, "--data.pair-field": config.pair_field}
        fields |= {"--data.negative-field": str(config.negative_field)} if self.negatives else {}
        return tuple(row.text(field, flag) for flag, field in fields.items())

    def records(
        self, rows: Sequence[Row], config: ExamplesConfig, tokenizer: Tokenizer, labels: Sequence[str]
    ) -> "GroupsRecords":
        del labels
        texts = list(zip(*(self.texts(row, config) for row in rows), strict=True))
        scores = [number(row, config) if self.scored else 0.0 for row in rows]
        sides = [FramedTexts(tokenizer, side, Length(self.length)) for side in texts]
        return GroupsRecords(sides, np.array(scores, np.float32))

    def empty(self, num_labels: int) -> Record:
        del num_labels
        texts = {name: np.stack([values] * self.size) for name, values in no_tokens(self.length).items()}
        return {**texts, "score": np.zeros((), np.float32), "there": np.zeros((), np.float32)}


class GroupsRecords(LengthRecords):
    """Record i: `tokens` and `segment_ids`, int32 [K, T]; `score`, and `there` (1; 0 is padding), float32."""

    def __init__(self, sides: Sequence[FramedTexts], scores: np.ndarray):
        self._sides, self._scores = sides, scores
        self.lengths = np.max([side.lengths for side in sides], axis=0)

    def __len__(self) -> int:
        return len(self._scores)

    def __getitem__(self, index: int) -> Record:
        rows = [side.padded(index) for side in self._sides]
        texts = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        return {**texts, "score": np.asarray(self._scores[index]), "there": np.ones((), np.float32)}
