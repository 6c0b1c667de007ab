"""Which tokenizer: the one kept with a run, or the one that a person names."""

import json
from pathlib import Path

from etils import epath

from transformer.errors import UserError
from transformer.tokenizers.tokenizer import CHAT_TEMPLATE, KIND_FILE, Tokenizer, read_tokenizer_file
from transformer.tokenizers.training_text import TrainingText

_HUGGING_FACE, _SENTENCEPIECE = ".json", ".model"


def load_tokenizer(folder: epath.PathLike) -> Tokenizer:
    """Returns the tokenizer that `Tokenizer.save(folder)` wrote; UserError if there is none, or a damaged one."""
    path = epath.Path(folder) / KIND_FILE
    try:
        kind = json.loads(path.read_text())["kind"]
    except FileNotFoundError:
        raise UserError(f"{folder} holds no tokenizer ({KIND_FILE} is missing).") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged. Restore it, or train again in a new run folder.") from None
    tokenizer = _read(kind, epath.Path(folder))
    if tokenizer is None:
        raise UserError(f"{path}: unknown kind of tokenizer {kind!r}. A newer version may have written it.")
    if (template := path.parent / CHAT_TEMPLATE).exists():
        tokenizer.chat_template = template.read_text()
    return tokenizer


def _read(kind: str, folder: epath.Path) -> Tokenizer | None:
    """Returns the tokenizer of a kind in a folder; None for an unknown kind."""
    if kind == "bytes":
        return _bytes()
    if kind == "sentencepiece":
        return _sentencepiece(folder / "tokenizer.model")
    if kind == "huggingface":
        from transformer.tokenizers.huggingface import HuggingFaceTokenizer

        return HuggingFaceTokenizer.read(folder)
    if kind == "marian":
        from transformer.tokenizers.marian import MarianTokenizer

        return MarianTokenizer.read(folder)
    return None


def make_tokenizer(name: str, vocab_size: int, text: TrainingText, cache: Path) -> Tokenizer:
    """Returns the tokenizer that a person names.

    Args:
      name: a kind of tokenizer, or a file.
      vocab_size: the model's.
      text: what a tokenizer is trained on, if it is of a kind that is trained.
      cache: the folder that keeps trained ones.

    Raises:
      UserError: an unknown kind, a bad file, a vocabulary that the text or the model cannot hold.
    """
    if name in ("unigram", "bpe"):
        from transformer.tokenizers.sentencepiece_training import trained  # SentencePiece loads only where it is used

        tokenizer = trained(name, vocab_size, text, cache)
    elif name == "bytes":
        tokenizer = _bytes()
    elif is_file(name):
        return read_tokenizer(name, vocab_size)
    else:
        raise UserError(
            f"--data.tokenizer {name!r}: give unigram, bpe, bytes, or the path of a tokenizer.json or a SentencePiece "
            ".model."
        )
    check_vocabulary(tokenizer, vocab_size)
    return tokenizer


def read_tokenizer(file: str, vocab_size: int) -> Tokenizer:
    """Returns the tokenizer in a file that `is_file` knows; UserError for a bad one, or one too large for the model."""
    path = epath.Path(file).expanduser()
    tokenizer = _huggingface(path) if file.endswith(_HUGGING_FACE) else _sentencepiece(path)
    check_vocabulary(tokenizer, vocab_size)
    return tokenizer


def is_file(name: str) -> bool:
    """Whether `--data.tokenizer` names a file, which is one tokenizer, and not a kind of tokenizer."""
    return name.endswith((_HUGGING_FACE, _SENTENCEPIECE))


TRAINING = "set --model.vocab-size to at least {pieces}."
AS_IMPORTED = (
    "resize the embedding (resize_token_embeddings({pieces}) in Transformers), or take what is beyond it out of the "
    "tokenizer's files, and import again."
)


def check_vocabulary(
    tokenizer: Tokenizer, vocab_size: int, advice: str = TRAINING, subject: str = "The tokenizer"
) -> None:
    """Raises UserError if the tokenizer's ids do not fit a model of `vocab_size` ids. A larger model is fine."""
    pieces = tokenizer.vocab_size
    if pieces > vocab_size:
        raise UserError(
            f"{subject} has {pieces} pieces and the model room for {vocab_size} (id {pieces - 1} is "
            f"{tokenizer.name_of(pieces - 1)!r}): {advice.format(pieces=pieces)}"
        )


def _bytes() -> Tokenizer:
    from transformer.tokenizers.raw_bytes import ByteTokenizer

    return ByteTokenizer()


def _sentencepiece(path: epath.Path) -> Tokenizer:
    from transformer.tokenizers.sentencepiece import SentencePieceTokenizer

    return SentencePieceTokenizer.read(path)


def _huggingface(path: epath.Path) -> Tokenizer:
    from transformer.tokenizers.huggingface import HuggingFaceTokenizer

    return HuggingFaceTokenizer(read_tokenizer_file(path), str(path))
