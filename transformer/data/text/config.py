"""What text a run trains on, and how it is cut into tokens."""

import dataclasses
from typing import ClassVar, Self

from transformer.data.dataset import DataConfig
from transformer.paths import absolute
from transformer.tokenizers.kinds import is_file

TFDS_PREFIX = "tfds:"
"""Begins the name of a source that is a TFDS dataset."""


@dataclasses.dataclass(frozen=True)
class TextConfig(DataConfig):
    """A corpus of texts, or of pairs of them, and its tokenizer."""

    kind: ClassVar[str] = "text"
    identity: ClassVar[tuple[str, ...]] = ("path", "tfds", "mixture", "text_field", "fields", "header")
    paths: ClassVar[tuple[str, ...]] = ("path", "mixture", "tokenizer")
    places: ClassVar[tuple[str, ...]] = (*paths, "tfds", "cache_dir")

    path: str | None = None
    """A file of UTF-8 text, .jsonl (one JSON object a line), .json (the same, or one array), .csv, .tsv or .parquet, or
    a folder of such; all but .parquet may be compressed (.gz, .zst). Overrides `tfds`."""

    tfds: str | None = None
    """A TFDS dataset, NAME or NAME/CONFIG. `python_stdlib` is the embedded corpus: Python's own standard library."""

    mixture: tuple[str, ...] = ()
    """SOURCE=WEIGHT items, where SOURCE is a path or `tfds:NAME`; overrides `path` and `tfds`. Samples are drawn in
    proportion to the weights."""

    text_field: str = "text"
    """The JSON or TFDS field, or the column, that holds the text."""

    fields: tuple[str, str] | None = None
    """For objectives on pairs, the names of source and target: the suffixes of parallel files (`en de` for train.en and
    train.de), the JSON or TFDS fields, or the columns. The columns of a .tsv file need none."""

    header: bool | None = None
    """Whether a .tsv file of pairs begins with a line of column names; None: where that line has `fields`, or a known
    pair of names (source and target, src and tgt, ...), or begins with two languages (en and de)."""

    changed: bool = False
    """The corpus is meant to be another than the one that the run began with. Not recorded: it holds for one start."""

    validation_fraction: float = 0.05
    """The part of a corpus (0 to 1) held out for validation, where the corpus has no validation split of its own."""

    tokenizer: str = "unigram"
    """`unigram` or `bpe` (SentencePiece, trained on the training corpus), `bytes`, or the path of a Hugging Face
    tokenizer.json or of a SentencePiece .model."""

    cache_dir: str = "~/.cache/transformer"
    """The folder that keeps prepared TFDS data, trained tokenizers and token stores; safe to delete."""

    workers: int = 0
    """Processes of each host that make training batches; 0: a thread of the training process. The batches are the
    same."""

    @property
    def sources(self) -> tuple[str, ...]:
        return self.mixture or (self.path or f"{TFDS_PREFIX}{self.tfds}",)

    def flag(self, source: str) -> str:
        field = "mixture" if self.mixture else ("path" if self.path is not None else "tfds")
        return f"data.{field} {source.removeprefix(TFDS_PREFIX) if field == 'tfds' else source}"

    def absolute(self) -> Self:
        return dataclasses.replace(
            self,
            path=None if self.path is None else absolute(self.path),
            mixture=tuple(map(_absolute_item, self.mixture)),
            tokenizer=absolute(self.tokenizer) if is_file(self.tokenizer) else self.tokenizer,
        )


def _absolute_item(item: str) -> str:
    name, equals, weight = item.rpartition("=")
    return item if not name or name.startswith(TFDS_PREFIX) else f"{absolute(name)}{equals}{weight}"
