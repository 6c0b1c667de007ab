"""Datasets of conversations."""

import copy
import dataclasses
from pathlib import Path

from transformer.data.chats.config import ChatConfig
from transformer.data.chats.conversations import Conversation, conversations
from transformer.data.chats.reading import ChatReading
from transformer.data.chats.rows import ALL, ChatRows, Share
from transformer.data.chats.store import ChatStore
from transformer.data.dataset import About
from transformer.data.records import JoinedRecords, Record
from transformer.data.splits import digest
from transformer.data.tokenized import TokenizedDataset
from transformer.errors import UserError
from transformer.paths import expanded
from transformer.tokenizers.chat import TRAINING_DAY, ChatTemplate
from transformer.tokenizers.kinds import check_vocabulary, is_file, read_tokenizer
from transformer.tokenizers.raw_bytes import ByteTokenizer
from transformer.tokenizers.tokenizer import Tokenizer
from transformer.tokenizers.vocabulary import Vocabulary

_VALIDATION = ("validation", "valid", "val", "dev", "test")
_ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".json")


@dataclasses.dataclass(frozen=True)
class ChatDataset(TokenizedDataset):
    """Conversations, tokenised by the template that its tokenizer carries."""

    def show(self, record: Record) -> tuple[str, ...]:
        """Returns what each conversation of a row says, without the specials."""
        segments = record["segment_ids"]
        return tuple(
            self.tokenizer.decode(record["tokens"][segments == n].tolist()) for n in range(1, segments.max() + 1)
        )


def open_chats(
    config: ChatConfig,
    reading: ChatReading,
    *,
    vocab_size: int | None,
    input_size: tuple[int, ...] = (),
    tokenizer: Tokenizer | None = None,
    whole: bool = False,
) -> ChatDataset:
    """Opens the conversations that a config names; arguments and errors as `kinds.open_dataset`'s."""
    if vocab_size is None or input_size:
        raise UserError("--data is chats and the model reads other things than text: choose a preset of a decoder")
    train, validation = files(config, whole=whole)
    tokenizer = _with_template(tokenizer or _made(config, vocab_size), config)
    check_vocabulary(tokenizer, vocab_size)
    template, cache = ChatTemplate(tokenizer, TRAINING_DAY), Path(config.cache_dir).expanduser()
    stores = {file: ChatStore.open(file, template, cache) for file in (train, validation) if file is not None}
    carved = train == validation
    share = Share(held_out=False, fraction=config.validation_fraction) if carved else ALL
    held = share._replace(held_out=True) if carved else ALL
    rows = () if train is None else (ChatRows(stores[train], share, reading, str(train)),)
    held_rows = ChatRows(stores[validation], held, reading, str(validation))
    contents = [store.content for store in stores.values()]
    reader = [tokenizer.fingerprint, template.fingerprint]
    counts = [f"{records.conversations:,} conversations to train on ({records.tokens:,} tokens), " for records in rows]
    return ChatDataset(
        train=rows,
        weights=tuple(1.0 for _ in rows),
        validation=JoinedRecords([held_rows]),
        fingerprint=digest([*contents, *reader, str(share)]),
        about=About(
            identity={
                "sources": {config.sources[0]: digest(contents)},
                "validation_fraction": config.validation_fraction,
                "tokenizer": digest(reader),
            },
            summary=f"{''.join(counts)}{held_rows.conversations:,} to validate",
            training=tuple(note for records in rows for note in records.notes),
            validation=held_rows.notes,
        ),
        tokenizer=tokenizer,
        vocabulary=Vocabulary.of(tokenizer),
    )


def files(config: ChatConfig, *, whole: bool = False) -> tuple[Path | None, Path]:
    """Returns the files to train and to validate on: the same one where a part of it is held out.

    Args:
      config: names them.
      whole: there is none to train on, and all of the other is validated on.

    Raises:
      UserError: there are none.
    """
    if config.path is None:
        raise UserError("no chats named: set --data.path to a .jsonl file of conversations, or a folder of such files")
    path = expanded(config.path)
    if not path.is_dir():
        return (None if whole else path), path
    train = _file(path, ("train",))
    validation = _file(path, _VALIDATION) or train
    if validation is None or (train is None and not whole):
        raise UserError(f"{path} has no train.jsonl: put it there, beside a validation.jsonl if you have one")
    return (None if whole else train), validation


def validation_chats(config: ChatConfig, *, whole: bool = False) -> list[Conversation]:
    """Returns the conversations that a config validates on; with `whole`, all of them."""
    train, validation = files(config, whole=whole)
    chats = list(conversations(validation))
    share = Share(held_out=True, fraction=config.validation_fraction) if train == validation else ALL
    return [chats[number] for number in share.of(len(chats)).tolist()]


def _file(folder: Path, names: tuple[str, ...]) -> Path | None:
    paths = (folder / f"{name}{ending}" for name in names for ending in _ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def _made(config: ChatConfig, vocab_size: int) -> Tokenizer:
    return read_tokenizer(config.tokenizer, vocab_size) if is_file(config.tokenizer) else ByteTokenizer()


def _with_template(tokenizer: Tokenizer, config: ChatConfig) -> Tokenizer:
    """Returns the tokenizer, with the template that the config names, if it names one."""
    if config.template is None:
        return tokenizer
    path = expanded(config.template)
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--data.template {path}: {getattr(error, 'strerror', None) or error}") from None
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = source
    return tokenizer
