"""Texts with several ways to go on, or questions with several answers, of which one is right."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.ragged import FramedTexts, no_tokens
from transformer.data.examples.reading import ExampleReading
from transformer.data.examples.rows import Row
from transformer.data.records import LengthRecords, Record
from transformer.errors import UserError
from transformer.tokenizers.framing import Length
from transformer.tokenizers.tokenizer import Tokenizer

_TEXT, _PAIR, _LABEL, _CHOICES = "--data.text-field", "--data.pair-field", "--data.label-field", "--data.choices-field"
_SWAG = {"context": "sent1", "question": "sent2"}
"""What SWAG calls these fields (Zellers et al. 2018); its choices are in `ending0`, `ending1`, ..."""


class Choice(NamedTuple):
    """What a row asks."""

    first: str
    """What comes before each choice."""
    seconds: tuple[str, ...]
    """Each choice, with the question before it where there is one beside a context."""
    right: int
    """Number of the right one, from 0."""


@dataclasses.dataclass(frozen=True)
class ChoicesReading(ExampleReading):
    """How a task reads choices."""

    choices: int = 4
    """C: choices of an example, at most."""

    def key(self, row: Row, config: ExamplesConfig) -> str:
        """What comes before the choices: equal ones are in one split."""
        return self.choice(row, config).first

    def texts(self, row: Row, config: ExamplesConfig) -> tuple[str, ...]:
        choice = self.choice(row, config)
        return (choice.first, *choice.seconds)

    def choice(self, row: Row, config: ExamplesConfig) -> Choice:
        """Returns what a row asks; UserError where it has no choices, or the right one is none of them."""
        first, asked = (_named(row, field) for field in (config.text_field, config.pair_field))
        if first is None and asked is None:
            row.value(config.text_field, _TEXT)  # which says that there is none
        question = "" if asked is None else row.text(asked, _PAIR)
        endings = self._endings(row, config)
        right, count = row.value(config.label_field, _LABEL), len(endings)
        number = int(right) if isinstance(right, int | str) and str(right).isdecimal() else -1
        if not 0 <= number < count:
            raise UserError(
                f"{row.where}: {config.label_field} is {right!r}, and there are {count} choices: give the right one's "
                "number, from 0"
            )
        if first is None:
            return Choice(question, endings, number)
        joined = tuple(f"{question} {ending}" for ending in endings) if question else endings
        return Choice(row.text(first, _TEXT), joined, number)

    def _endings(self, row: Row, config: ExamplesConfig) -> tuple[str, ...]:
        """Returns the choices."""
        found = row.values.get(config.choices_field)
        if found is None:
            found = [row.values[name] for name in map("ending{}".format, range(len(row.values))) if name in row.values]
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found) or len(found) < 2:
            raise UserError(
                f"{row.where}: no list of two texts or more in {config.choices_field!r}, nor in ending0, ending1, ...: "
                f"name another field with {_CHOICES}"
            )
        if blank := [number for number, each in enumerate(found) if not each.strip()]:
            raise UserError(f"{row.where}: choice {blank[0]} is empty: leave the row out, or say something")
        if len(found) > self.choices:
            raise UserError(f"{row.where}: {len(found)} choices: give --objective.choices {len(found)}")
        return tuple(found)

    def records(
        self, rows: Sequence[Row], config: ExamplesConfig, tokenizer: Tokenizer, labels: Sequence[str]
    ) -> "ChoicesRecords":
        del labels
        return ChoicesRecords(
            tokenizer, [self.choice(row, config) for row in rows], Length(self.length, config.cut), self.choices
        )

    def empty(self, num_labels: int) -> Record:
        del num_labels
        rows = {name: np.stack([values] * self.choices) for name, values in no_tokens(self.length).items()}
        return {**rows, "label": np.zeros((), np.int32), "there": np.zeros((), np.float32)}


def _named(row: Row, field: str | None) -> str | None:
    """Returns the name that a row has for a field; None: it has none."""
    names = () if field is None else (field, _SWAG.get(field, field))
    return next((name for name in names if row.values.get(name) is not None), None)


class ChoicesRecords(LengthRecords):
    """Record i: `tokens`, `token_types` and `segment_ids`, int32 [C, T], a row a choice; `label`, the number of the
    right one, int32; and `there`, float32 1. Where there are fewer choices, rows of padding stand behind them."""

    def __init__(self, tokenizer: Tokenizer, choices: Sequence[Choice], length: Length, most: int):
        """Tokenizes all choices, of which an example has no more than `most`."""
        pairs = [(each.first, second) for each in choices for second in each.seconds]
        self._rows, self._most = FramedTexts(tokenizer, pairs, length), most
        self._begins = np.cumsum([0, *(len(each.seconds) for each in choices)])
        self._right = np.array([each.right for each in choices], np.int32)
        self.lengths = np.maximum.reduceat(self._rows.lengths, self._begins[:-1])
        self.choices = choices

    def __len__(self) -> int:
        return len(self._right)

    def __getitem__(self, index: int) -> Record:
        rows = [self._rows.padded(number) for number in range(self._begins[index], self._begins[index + 1])]
        blank = {name: np.zeros_like(values) for name, values in rows[0].items()}
        rows += [blank] * (self._most - len(rows))
        stacked = {name: np.stack([row[name] for row in rows]) for name in blank}
        return {**stacked, "label": np.asarray(self._right[index]), "there": np.ones((), np.float32)}
