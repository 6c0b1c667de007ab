"""Sentences whose words have tags: names that begin (B-PER) and go on (I-PER), or parts of speech.

The model tells a word's tag at the word's first token; its other tokens weigh nothing.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from transformer.data.examples.columns import SUFFIXES as OF_COLUMNS
from transformer.data.examples.columns import Columns, is_columns, sentences_of
from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.ragged import FramedRows, Ragged, framed_rows, no_tokens
from transformer.data.examples.reading import ExampleReading
from transformer.data.examples.rows import SUFFIXES as OF_ROWS
from transformer.data.examples.rows import Row, rows_of
from transformer.data.records import LengthRecords, Record
from transformer.errors import UserError
from transformer.tokenizers import framing
from transformer.tokenizers.framing import Length
from transformer.tokenizers.tokenizer import Tokenizer

_WORDS, _TAGS = "--data.text-field", "--data.label-field"
_BIO = re.compile(r"O|[BIES]-.+")
_NO_TOKEN = -1
"""Place of the first token of a word that has none: the row ends before it, or the tokenizer leaves it out."""


@dataclasses.dataclass(frozen=True)
class TaggedReading(ExampleReading):
    """How a task reads tagged words."""

    entities: bool = True
    """Whether tags are of names of several words: O, B-NAME, I-NAME, E-NAME and S-NAME; False: any tags."""

    suffixes = (*OF_COLUMNS, *(suffix for suffix in OF_ROWS if suffix not in OF_COLUMNS))

    def rows(self, path: Path, config: ExamplesConfig) -> Iterator[Row]:
        if not is_columns(path):
            return rows_of(path, config.columns)
        if config.columns:
            raise UserError(
                f"{path}: --data.columns names columns of .csv files; of this one --data.word-column and "
                "--data.tag-column say which are read"
            )
        chosen = Columns(config.word_column, config.tag_column)
        return sentences_of(path, chosen, (config.text_field, config.label_field))

    def key(self, row: Row, config: ExamplesConfig) -> str:
        """A row's words: equal sentences are in one split."""
        return self.texts(row, config)[0]

    def texts(self, row: Row, config: ExamplesConfig) -> tuple[str, ...]:
        return (" ".join(self.words(row, config)),)

    def words(self, row: Row, config: ExamplesConfig) -> list[str]:
        """Returns a row's words; UserError where it has none, or one is empty."""
        words = row.value(config.text_field, _WORDS)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(
                f"{row.where}: {config.text_field} is no list of words, each with a tag. Name another with {_WORDS}"
            )
        if not words:
            raise UserError(f"{row.where}: {config.text_field} has no words: leave the row out")
        if blank := [number for number, word in enumerate(words, start=1) if not word.strip()]:
            raise UserError(f"{row.where}: word {blank[0]} of {config.text_field} is empty: leave it out, and its tag")
        return words

    def labels(self, row: Row, config: ExamplesConfig) -> tuple[str, ...]:
        words, tags = self.words(row, config), row.value(config.label_field, _TAGS)
        if not isinstance(tags, list) or len(tags) != len(words):
            count = f"has {len(tags)}" if isinstance(tags, list) else f"is {tags!r}"
            raise UserError(f"{row.where}: {len(words)} words, and {config.label_field} {count}: give a tag a word")
        return tuple(self._name(tag, row, config) for tag in tags)

    def _name(self, tag: object, row: Row, config: ExamplesConfig) -> str:
        """Returns a tag's name."""
        if isinstance(tag, int) and not isinstance(tag, bool):
            if config.tag_names and not 0 <= tag < len(config.tag_names):
                raise UserError(f"{row.where}: tag {tag}, and --data.tag-names names {len(config.tag_names)}, from 0")
            if not config.tag_names and self.entities:
                raise UserError(
                    f"{row.where}: tag {tag} is a number: name the tags in their order, --data.tag-names O B-PER I-PER"
                )
            tag = config.tag_names[tag] if config.tag_names else str(tag)
        if not isinstance(tag, str) or not tag.strip():
            raise UserError(f"{row.where}: {config.label_field} has {tag!r}: a tag is a name or a number")
        if self.entities and not _BIO.fullmatch(tag):
            raise UserError(
                f"{row.where}: {tag!r} is no tag of a name (O, B-NAME, I-NAME, E-NAME, S-NAME): give "
                "--objective.tags words where each word's tag stands by itself, as a part of speech"
            )
        return tag

    def records(
        self, rows: Sequence[Row], config: ExamplesConfig, tokenizer: Tokenizer, labels: Sequence[str]
    ) -> "TaggedRecords":
        numbers = {label: number for number, label in enumerate(labels)}
        tags = [np.array([numbers[tag] for tag in self.labels(row, config)], np.int32) for row in rows]
        return TaggedRecords(tokenizer, [self.words(row, config) for row in rows], tags, self.length)

    def empty(self, num_labels: int) -> Record:
        del num_labels
        blank = no_tokens(self.length)
        return {**blank, "tags": np.zeros(self.length, np.int32), "tagged": np.zeros(self.length, np.float32)}


class TaggedRecords(LengthRecords):
    """Record i: `tokens`, `token_types`, `segment_ids` and `tags`, int32 [T]; `tagged`, float32 [T].

    `tagged` is 1 at the first token of each word, where `tags` has the number of the word's tag; elsewhere both are 0.
    """

    def __init__(
        self, tokenizer: Tokenizer, sentences: Sequence[Sequence[str]], tags: Sequence[np.ndarray], length: int
    ):
        """Tokenizes sentences, whose words have one space between.

        Args:
          tokenizer: any.
          sentences: words of each.
          tags: a number a word.
          length: T.
        """
        texts = [" ".join(words) for words in sentences]
        framed = [row for [row] in framed_rows(tokenizer, texts, Length(length))]
        self._texts = FramedRows(framed, length, tokenizer.pad_id)
        self.lengths = self._texts.lengths
        self.tags = Ragged(tags)
        """Numbers of the tags of all words, of those that the row has no room for too."""
        self.places = Ragged([first_tokens(row, words) for row, words in zip(framed, sentences, strict=True)])
        """The first token of each word; below 0 where it has none."""

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> Record:
        record = self._texts.padded(index)
        tags, tagged = np.zeros_like(record["tokens"]), np.zeros(len(record["tokens"]), np.float32)
        places = self.places[index]
        told = places >= 0
        tags[places[told]], tagged[places[told]] = self.tags[index][told], 1
        return {**record, "tags": tags, "tagged": tagged}


def first_tokens(row: framing.Row, words: Sequence[str]) -> np.ndarray:
    """Returns int32 [words]: the first token of each of the words of a row's text, which have one space between.

    -1 where a word has no token, or none of its own: one that begins with an earlier word is that word's.
    """
    lengths = np.array([len(word) for word in words])
    ends = np.cumsum(lengths + 1) - 1
    starts = ends - lengths
    own = np.flatnonzero(row.texts != framing.SPECIAL)
    last = np.maximum.accumulate(np.maximum(row.ends[own], row.starts[own] + 1)) if len(own) else own
    found = np.searchsorted(last, starts, side="right")
    there = np.flatnonzero(found < len(own))
    there = there[row.starts[own[found[there]]] < ends[there]]
    tokens, first = np.unique(found[there], return_index=True)
    places = np.full(len(words), _NO_TOKEN, np.int32)
    places[there[first]] = own[tokens]
    return places
