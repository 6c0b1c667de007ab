"""Which conversations a run learns from."""

import dataclasses
from typing import ClassVar, Self

from transformer import checks
from transformer.data.dataset import DataConfig
from transformer.paths import absolute
from transformer.tokenizers.kinds import is_file


@dataclasses.dataclass(frozen=True)
class ChatConfig(DataConfig):
    """Conversations with an assistant, and the template by which a model reads them."""

    kind: ClassVar[str] = "chats"
    identity: ClassVar[tuple[str, ...]] = ("path", "template")
    paths: ClassVar[tuple[str, ...]] = ("path", "template", "tokenizer")
    places: ClassVar[tuple[str, ...]] = (*paths, "cache_dir")

    path: str | None = None
    """A .jsonl file (also .gz, .zst) with a conversation a line: `messages`, a list of objects with `role` and
    `content`, or a `prompt` and its `completion`; or a folder with train.jsonl and validation.jsonl (val, valid, dev,
    test)."""
    template: str | None = None
    """A file with the chat template (Jinja); None: the tokenizer's own, which an imported model's comes with."""
    changed: bool = False
    """The conversations are meant to be others than those that the run began with. Not recorded: it holds for one
    start."""
    validation_fraction: float = 0.05
    """The part of the conversations (0 to 1) held out for validation, where `path` has no such file of its own."""
    tokenizer: str = "bytes"
    """`bytes`, or the path of a Hugging Face tokenizer.json or of a SentencePiece .model, for a model that starts from
    no weights: those of --init.path have their own."""
    cache_dir: str = "~/.cache/transformer"
    """The folder that keeps tokenised conversations; safe to delete."""
    workers: int = 0
    """Processes of each host that make training batches; 0: a thread of the training process. The batches are the
    same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction = self.validation_fraction
        checks.rule(self, "validation_fraction", 0 < fraction < 1, "give a number between 0 and 1, such as 0.05")
        known = self.tokenizer == "bytes" or is_file(self.tokenizer)
        checks.rule(self, "tokenizer", known, "give bytes, or the path of a tokenizer.json or a SentencePiece .model")

    @property
    def sources(self) -> tuple[str, ...]:
        return (str(self.path),)

    def flag(self, source: str) -> str:
        return f"data.path {source}"

    def absolute(self) -> Self:
        full = {name: value and absolute(value) for name in ("path", "template") for value in [getattr(self, name)]}
        tokenizer = absolute(self.tokenizer) if is_file(self.tokenizer) else self.tokenizer
        return dataclasses.replace(self, **full, tokenizer=tokenizer)
