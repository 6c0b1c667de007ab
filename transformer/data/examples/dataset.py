"""Datasets of a task's examples, with the names of their classes."""

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from transformer.data.dataset import About
from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.reading import ExampleReading
from transformer.data.examples.rows import Row
from transformer.data.examples.sources import open_sources
from transformer.data.records import LengthRecords, Record
from transformer.data.source import Source
from transformer.data.splits import digest
from transformer.data.tokenized import TokenizedDataset
from transformer.errors import UserError
from transformer.tokenizers.kinds import check_vocabulary, make_tokenizer
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.tokenizers.training_text import TrainingText, up_to
from transformer.tokenizers.vocabulary import Vocabulary

_FIELDS = ("text_field", "pair_field", "negative_field", "label_field", "choices_field")
"""Fields of the config that say what is read of a row."""


@dataclasses.dataclass(frozen=True)
class ExamplesDataset(TokenizedDataset):
    """Examples of a task."""

    labels: tuple[str, ...]
    """Names of the classes, in the order of the numbers that records have for them; empty where there are none."""
    counts: tuple[int, ...]
    """Training examples of each class."""
    held_out: Source[Row]
    """The validation rows, record by record."""
    labels_of: Callable[[Row], tuple[str, ...]]
    """Names of a row's classes."""

    def held_out_with(self, label: str) -> str:
        """Returns the file and line of the first validation row of a class that some have."""
        return _first_with(label, self.held_out, self.labels_of)

    def show(self, record: Record) -> tuple[str, ...]:
        return (self.tokenizer.decode(record["tokens"][record["segment_ids"] > 0].tolist()),)


def open_examples(
    config: ExamplesConfig,
    reading: ExampleReading,
    *,
    vocab_size: int | None,
    input_size: tuple[int, ...] = (),
    tokenizer: Tokenizer | None = None,
    whole: bool = False,
) -> ExamplesDataset:
    """Opens the examples that a config names; arguments and errors as `kinds.open_dataset`'s."""
    if input_size or vocab_size is None:
        raise UserError("--data are texts and the model reads none alone: choose a preset of another model")
    train, held = open_sources(config, reading, whole=whole)
    labels_of = functools.partial(reading.labels, config=config)
    labels = read_labels(train, held, labels_of)
    source = held if train is None else train
    if tokenizer is None:
        texts = TrainingText(lambda: [source.fingerprint], lambda size: up_to(size, source.texts()))
        tokenizer = make_tokenizer(config.tokenizer, vocab_size, texts, Path(config.cache_dir).expanduser())
    check_vocabulary(tokenizer, vocab_size)
    contents = [each.fingerprint for each in (train, held) if each is not None]
    framing = [str(reading), config.cut, str(config.stride), *labels]

    def records(rows: Source[Row]) -> LengthRecords:
        return reading.records([rows[number] for number in range(len(rows))], config, tokenizer, labels)

    training = () if train is None else (records(train),)
    validation = records(held)
    counted = Counter(label for row in train or () for label in labels_of(row))
    [name] = config.sources
    identity = {
        "sources": {name: digest(contents)},
        "validation_fraction": config.validation_fraction,
        "fields": digest([json.dumps([getattr(config, name) for name in _FIELDS]), *framing]),
        "tokenizer": tokenizer.fingerprint,
    }
    return ExamplesDataset(
        train=training,
        weights=(1.0,) * len(training),
        validation=validation,
        fingerprint=digest([*contents, *framing, tokenizer.fingerprint]),
        about=About(
            identity,
            _summary(train, held),
            notes=tuple(_notes(counted)),
            training=tuple(reading.note(records) for records in training),
            validation=(reading.note(validation),),
        ),
        tokenizer=tokenizer,
        vocabulary=Vocabulary.of(tokenizer),
        labels=labels,
        counts=tuple(counted[label] for label in labels),
        held_out=held,
        labels_of=labels_of,
    )


def read_labels(
    train: Source[Row] | None, held: Source[Row], labels_of: Callable[[Row], tuple[str, ...]]
) -> tuple[str, ...]:
    """Returns the names of all classes in order: numbers by their size, names by the alphabet.

    Raises:
      UserError: a class of the validation rows that no training row has.
    """
    if train is None:
        return _in_order(held.labels)
    if unseen := [label for label in held.labels if label not in set(train.labels)]:
        where = _first_with(unseen[0], held, labels_of)
        raise UserError(
            f"{where}: validation has the label {unseen[0]!r}, which no training example has: add such examples, or "
            "leave it out"
        )
    return _in_order(train.labels)


def _first_with(label: str, rows: Source[Row], labels_of: Callable[[Row], tuple[str, ...]]) -> str:
    return next(row.where for row in map(rows.__getitem__, range(len(rows))) if label in labels_of(row))


def _in_order(labels: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(labels, key=lambda label: (0, int(label), "") if _is_number(label) else (1, 0, label)))


def _is_number(label: str) -> bool:
    return label.removeprefix("-").isdecimal()


def _summary(train: Source[Row] | None, held: Source[Row]) -> str:
    of_training = "" if train is None else f"{len(train):,} examples to train on, "
    return f"{of_training}{len(held):,} to validate"


def _notes(counted: Counter[str]) -> Iterable[str]:
    if counted:
        shares = ", ".join(f"{label} {count:,}" for label, count in counted.most_common(8))
        yield f"labels to train on: {shares}{', ...' if len(counted) > 8 else ''}"
