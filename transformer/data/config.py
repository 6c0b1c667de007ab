"""What text a run trains on, and how it is cut into tokens."""

import dataclasses

from transformer import checks


@dataclasses.dataclass(frozen=True)
class DataConfig:
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

    def __post_init__(self) -> None:
        checks.require(self, bool(self.cache_dir), "`cache_dir` is empty: name a folder")
        checks.rule(self, "workers", self.workers >= 0, "it must be 0 (none) or the number of processes")
