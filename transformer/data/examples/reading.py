"""What a task reads of rows: which files hold them, their texts and labels, and their records."""

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.rows import SUFFIXES, Row, rows_of
from transformer.data.records import LengthRecords, Reading, Record
from transformer.tokenizers.tokenizer import Tokenizer


def spread(lengths: np.ndarray) -> str:
    """Returns how long most of some rows are, and the longest, in words."""
    return f"{int(np.median(lengths)):,} tokens in the middle, {int(lengths.max()):,} at most"


@dataclasses.dataclass(frozen=True)
class ExampleReading(Reading, abc.ABC):
    """How a task reads examples."""

    length: int
    """T: tokens of an example, at most."""

    suffixes = SUFFIXES
    """Endings of the files that it reads."""

    def rows(self, path: Path, config: ExamplesConfig) -> Iterator[Row]:
        """Yields the rows of a file; raises UserError for one that does not hold what the task reads."""
        return rows_of(path, config.columns)

    @abc.abstractmethod
    def key(self, row: Row, config: ExamplesConfig) -> str:
        """Returns what decides a row's split: rows that belong together have one key."""

    @abc.abstractmethod
    def texts(self, row: Row, config: ExamplesConfig) -> tuple[str, ...]:
        """Returns a row's texts; raises UserError where one is missing or empty."""

    def labels(self, row: Row, config: ExamplesConfig) -> tuple[str, ...]:
        """Returns the names of a row's labels; none where the task has no classes."""
        del row, config
        return ()

    @abc.abstractmethod
    def records(
        self, rows: Sequence[Row], config: ExamplesConfig, tokenizer: Tokenizer, labels: Sequence[str]
    ) -> LengthRecords:
        """Returns the records of some rows.

        Args:
          rows: a split's.
          config: what fields are called.
          tokenizer: of their texts.
          labels: all classes, by whose numbers records name them.

        Raises:
          UserError: a row that cannot be one, by file and line.
        """

    def note(self, records: LengthRecords) -> str:
        """Returns how long some of its records are; those of the longest length may have been cut to it."""
        lengths = records.lengths
        full = int((lengths >= self.length).sum())
        cut = f"; {full:,} fill all {self.length:,} tokens of --train.seq-len, and may be cut" if full else ""
        return f"{len(lengths):,} examples of {spread(lengths)}{cut}"

    def padding(self, input_size: tuple[int, ...]) -> Record:
        del input_size
        return self.empty(1)

    @abc.abstractmethod
    def empty(self, num_labels: int) -> Record:
        """Returns a record that is all padding."""
