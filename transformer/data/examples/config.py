"""Which examples of a task a run reads, and what their fields are called."""

import dataclasses
from typing import ClassVar, Literal, Self

from transformer import checks
from transformer.data.dataset import DataConfig
from transformer.paths import absolute
from transformer.tokenizers.kinds import is_file


@dataclasses.dataclass(frozen=True)
class ExamplesConfig(DataConfig):
    """Examples of a task, in rows of named fields; they are read whole."""

    kind: ClassVar[str] = "examples"
    identity: ClassVar[tuple[str, ...]] = (
        "path", "tfds", "embedded", "text_field", "pair_field", "negative_field", "label_field", "columns",
        "label_separator", "word_column", "tag_column", "tag_names", "choices_field",
    )  # fmt: skip
    paths: ClassVar[tuple[str, ...]] = ("path", "tokenizer")
    places: ClassVar[tuple[str, ...]] = (*paths, "tfds", "cache_dir")

    path: str | None = None
    """A .tsv, .csv, .jsonl, .json or .parquet file (all but .parquet also .gz, .zst), or whatever else the task reads;
    or a folder with `train` and `validation` (val, valid, dev) or `test` files of such. Overrides `tfds`."""
    tfds: str | None = None
    """A TFDS dataset, NAME or NAME/CONFIG, such as glue/sst2, with its splits; overrides `embedded`."""
    embedded: Literal["docstrings", "summaries", "definitions", "defaults", "next_lines"] = "docstrings"
    """What needs no files, made of Python's own standard library: `docstrings`, what the first line of one describes (a
    class, a function or a module); `summaries`, these lines with the code of the function that they describe;
    `definitions`, what words of code name; `defaults`, what the default of a function's argument is;
    `next_lines`, which of four lines comes next."""
    text_field: str = "text"
    """The field, or column, with the text; of tagged words, with a list of them; of questions, with one."""
    pair_field: str | None = None
    """The field with a second text, of tasks on pairs; of questions, with the context; of choices, with the question.
    None: texts stand alone."""
    negative_field: str | None = None
    """The field with a third text, of tasks on triples: one that does not belong to the first."""
    label_field: str = "label"
    """The field with the label: a name, a number, or several of them; of tagged words, a tag each; of questions,
    the answers; of choices, the number of the right one."""
    columns: tuple[str, ...] = ()
    """Names of the columns of .tsv and .csv files that do not begin with a line of them."""
    label_separator: str = ","
    """What stands between several labels of a cell."""
    word_column: int | None = None
    """The column with the word, from 1, of files with a tagged word a line; None: the first, of .conllu the second."""
    tag_column: int | None = None
    """The column with its tag; None: the last, of .conllu the fourth (universal parts of speech)."""
    tag_names: tuple[str, ...] = ()
    """Names of the tags that rows give by number, from 0."""
    cut: Literal["only_first", "only_second", "longest_first"] = "longest_first"
    """Which text of a pair loses tokens where both do not fit. A text alone loses its last ones."""
    choices_field: str = "choices"
    """The field with the list of choices, of tasks that choose one."""
    stride: int = 0
    """Tokens that a window of a long text shares with the one before it, of tasks that read texts in windows."""
    changed: bool = False
    """The data are meant to be others than those that the run began with. Not recorded: it holds for one start."""
    validation_fraction: float = 0.1
    """The part of the examples (0 to 1) held out for validation, where they have no such split of their own."""
    tokenizer: str = "unigram"
    """`unigram` or `bpe` (SentencePiece, trained on the texts), `bytes`, or the path of a Hugging Face tokenizer.json
    or of a SentencePiece .model. Weights that a run starts from have their own."""
    cache_dir: str = "~/.cache/transformer"
    """The folder that keeps prepared TFDS data and trained tokenizers; safe to delete."""
    workers: int = 0
    """Processes of each host that make training batches; 0: a thread of the training process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.rule(self, "validation_fraction", 0 < self.validation_fraction < 1, "it must be between 0 and 1")
        checks.require(self, bool(self.text_field and self.label_field), "`text_field` and `label_field` need a name")
        checks.require(self, bool(self.label_separator), "`label_separator` is empty: name a character")
        checks.at_least(self, 1, "word_column", "tag_column")
        checks.at_least(self, 0, "stride")
        checks.rule(self, "pair_field", self.pair_field != self.text_field, "both texts would be the same")

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.path or (f"tfds:{self.tfds}" if self.tfds is not None else self.embedded),)

    def flag(self, source: str) -> str:
        if self.path is not None:
            return f"data.path {source}"
        return f"data.tfds {self.tfds}" if self.tfds is not None else f"data.embedded {source}"

    def absolute(self) -> Self:
        return dataclasses.replace(
            self,
            path=None if self.path is None else absolute(self.path),
            tokenizer=absolute(self.tokenizer) if is_file(self.tokenizer) else self.tokenizer,
        )
