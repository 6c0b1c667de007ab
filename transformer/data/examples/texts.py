"""Texts, or pairs of texts, with labels: a class, several of them, or a number."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.ragged import FramedTexts, no_tokens
from transformer.data.examples.reading import ExampleReading
from transformer.data.examples.rows import Row
from transformer.data.records import LengthRecords, Record
from transformer.errors import UserError
from transformer.tokenizers.framing import Length, Text
from transformer.tokenizers.tokenizer import Tokenizer

Labels = Literal["one", "several", "number"]
"""What a text's label is."""

_TEXT, _PAIR, _LABEL = "--data.text-field", "--data.pair-field", "--data.label-field"


@dataclasses.dataclass(frozen=True)
class TextsReading(ExampleReading):
    """How a task reads texts with labels."""

    kind: Labels = "one"
    """What a label is."""

    def key(self, row: Row, config: ExamplesConfig) -> str:
        """A row's text: equal texts are in one split."""
        return self.texts(row, config)[0]

    def texts(self, row: Row, config: ExamplesConfig) -> tuple[str, ...]:
        first = row.text(config.text_field, _TEXT)
        return (first,) if config.pair_field is None else (first, row.text(config.pair_field, _PAIR))

    def labels(self, row: Row, config: ExamplesConfig) -> tuple[str, ...]:
        if self.kind == "number":
            return ()
        value = row.value(config.label_field, _LABEL)
        if self.kind == "one":
            return (_name(value, row, config.label_field),)
        if isinstance(value, str):
            value = [name for name in map(str.strip, value.split(config.label_separator)) if name]
        if not isinstance(value, list):
            raise UserError(f"{row.where}: {config.label_field} is {value!r}: give a list of labels")
        return tuple(_name(each, row, config.label_field) for each in value)

    def records(
        self, rows: Sequence[Row], config: ExamplesConfig, tokenizer: Tokenizer, labels: Sequence[str]
    ) -> "TextsRecords":
        texts = [pair if len(pair := self.texts(row, config)) == 2 else pair[0] for row in rows]
        numbers = {label: number for number, label in enumerate(labels)}
        targets: Any
        if self.kind == "number":
            targets = np.array([number(row, config) for row in rows], np.float32)
        elif self.kind == "one":
            targets = np.array([numbers[self.labels(row, config)[0]] for row in rows], np.int32)
        else:
            targets = np.zeros((len(rows), len(labels)), np.float32)
            for place, row in enumerate(rows):
                targets[place, [numbers[label] for label in self.labels(row, config)]] = 1
        return TextsRecords(tokenizer, texts, Length(self.length, config.cut), targets)  # type: ignore[arg-type]

    def empty(self, num_labels: int) -> Record:
        label = {"one": np.zeros((), np.int32), "number": np.zeros((), np.float32)}
        several = np.zeros(num_labels, np.float32)
        return {**no_tokens(self.length), "label": label.get(self.kind, several), "there": np.zeros((), np.float32)}


class TextsRecords(LengthRecords):
    """Record i: `tokens`, `token_types`, `segment_ids`, int32 [T]; `label`, and `there` (float32 1; 0 is padding).

    The label is a class's number, int32; several, float32 [labels], 1 where one holds; or a number, float32.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[Text], length: Length, targets: np.ndarray):
        self._texts, self._targets = FramedTexts(tokenizer, texts, length), targets
        self.lengths = self._texts.lengths

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> Record:
        label, there = np.asarray(self._targets[index]), np.ones((), np.float32)
        return {**self._texts.padded(index), "label": label, "there": there}


def number(row: Row, config: ExamplesConfig) -> float:
    """Returns a row's label as a number; UserError where it is none."""
    value = row.value(config.label_field, _LABEL)
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found) or isinstance(value, bool):
        raise UserError(f"{row.where}: {config.label_field} is {value!r}: it must be a number")
    return found


def _name(value: Any, row: Row, field: str) -> str:
    """Returns a label's name."""
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    raise UserError(f"{row.where}: {field} is {value!r}: a label is a name or a whole number")
