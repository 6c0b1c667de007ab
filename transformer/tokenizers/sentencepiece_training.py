"""Training a SentencePiece vocabulary on a corpus, in seconds and the same on every machine.

SentencePiece is given words with counts, not text. That bounds its work by the number of different words, and lets us
say what may become one piece: `_WORDS` allows a newline with the indentation and the word after it ("\\n    return"),
and a word with the space and the sign before it (" (self"), which SentencePiece's own splitting forbids. On Python's
standard library at 4,096 pieces this gives 3.3 bytes a token instead of 3.0, and trains in a tenth of the time.
"""

import collections
import hashlib
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformer.atomic import build_folder
from transformer.errors import UserError
from transformer.tokenizers.sentencepiece import SentencePieceTokenizer
from transformer.tokenizers.tokenizer import RESERVED
from transformer.tokenizers.training_text import TrainingText

_SAMPLE_BYTES = 64 << 20
# Only the most frequent of the different words train, so many for each piece wanted: it bounds the time on any corpus.
_WORDS_A_PIECE = 15
_MIN_WORDS = 60_000
# Repetitions are bounded so that base64 or a text without spaces does not become one endless word.
_WORDS = re.compile(
    r" ?[^\w\s]{0,8}\n\s{0,32}[^\W\d]{0,16}"  # the end of a line, the indentation and the first word of the next
    r"| {1,32}(?= )"  # all but the last of several spaces
    r"| ?[^\w\s]?[^\W\d]{1,24}"  # a word, with the space and the sign before it
    r"| ?\d{1,8}| ?[^\w\s]{1,8}|\s{1,32}"
)
_TRAINER: dict[str, Any] = {
    "input_format": "tsv",
    # The four settings that make it lossless; SentencePiece's defaults squeeze and normalise.
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "byte_fallback": True,
    # Words are cut by `_WORDS`, not again by SentencePiece.
    "split_by_whitespace": False,
    "split_by_unicode_script": False,
    "allow_whitespace_only_pieces": True,
    "split_digits": True,
    "character_coverage": 0.9999,
    "pad_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "unk_id": 3,
    "unk_surface": "",
    "control_symbols": list(RESERVED[4:]),
    # One thread: on 60,000 words faster than two, and independent of the machine.
    "num_threads": 1,
    "shrinking_factor": 0.6,  # SentencePiece's 0.75 gives the same compression and takes 1.5 times as long
    "minloglevel": 3,
}


def trained(kind: str, vocab_size: int, text: TrainingText, cache: Path) -> SentencePieceTokenizer:
    """Returns a tokenizer of `vocab_size` pieces trained on a sample of `text`; kept under `cache` by its identity.

    Args:
      kind: "unigram" or "bpe".
    """
    settings = repr(
        (kind, vocab_size, _SAMPLE_BYTES, _WORDS_A_PIECE, _MIN_WORDS, _WORDS.pattern, sorted(_TRAINER.items()))
    )
    key = hashlib.blake2b(repr((settings, text.identity())).encode(), digest_size=12).hexdigest()
    folder = cache / "tokenizers" / key

    def write(place: Path) -> None:
        SentencePieceTokenizer(train(kind, vocab_size, text.sample(_SAMPLE_BYTES)), "trained").save(place)

    build_folder(folder, is_whole=_loads, write=write)
    return SentencePieceTokenizer.read(folder / "tokenizer.model")


def _loads(folder: Path) -> bool:
    try:
        SentencePieceTokenizer.read(folder / "tokenizer.model")
    except UserError:
        return False
    return True


def train(kind: str, vocab_size: int, texts: Iterable[str]) -> bytes:
    """Returns the bytes of a SentencePiece model; UserError if the texts support no vocabulary of that size."""
    import sentencepiece

    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(_WORDS.findall(text))
    if not counts:
        raise UserError("The training text is empty: there is nothing to train a tokenizer on.")
    # Sorted, so that equal corpora give equal models. Tabs separate the columns of SentencePiece's input: a tab is a
    # byte piece.
    ranked = sorted(
        ((word, count) for word, count in counts.items() if "\t" not in word), key=lambda item: (-item[1], item[0])
    )
    lines = (f"{word}\t{count}" for word, count in ranked[: max(_MIN_WORDS, _WORDS_A_PIECE * vocab_size)])
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type=kind,
            vocab_size=vocab_size,
            seed_sentencepiece_size=max(50_000, 10 * vocab_size),
            **_TRAINER,
        )
    except (RuntimeError, OSError) as error:
        raise _explain(str(error), kind, vocab_size) from None
    return model.getvalue()


def _explain(message: str, kind: str, vocab_size: int) -> UserError:
    if largest := re.search(r"value <= (\d+)", message):
        return UserError(
            f"A vocabulary of {vocab_size} is more than this corpus supports: set --model.vocab-size to at most "
            f"{largest[1]}, or use --data.tokenizer bytes."
        )
    if smallest := re.search(r"required_chars\. \d+ vs (\d+)", message):
        return UserError(
            f"A vocabulary of {vocab_size} is too small for the characters of this corpus: set --model.vocab-size to "
            "at least "
            f"{smallest[1]}, or use --data.tokenizer bytes."
        )
    return UserError(f"SentencePiece could not train a {kind} vocabulary of {vocab_size} on this corpus: {message}")
