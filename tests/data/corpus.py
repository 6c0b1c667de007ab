"""A small text, and what tests read of a corpus: whole documents, and stores."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from transformer.data.text.build import Maker, find_or_build
from transformer.data.text.pieces import Piece
from transformer.data.text.readable import Split
from transformer.data.text.sources import Source
from transformer.data.text.store import TokenStore
from transformer.tokenizers.tokenizer import Tokenizer

_SYLLABLES = ["ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "wo", "xu"]


def make_text(lines: int, seed: int = 0) -> str:
    """Returns words, indentation and figures: enough for a vocabulary of 512."""
    vocabulary = random.Random(0)
    words = ["".join(vocabulary.choices(_SYLLABLES, k=vocabulary.randrange(1, 5))) for _ in range(400)]
    rng = random.Random(seed)
    return "".join(
        "    " * rng.randrange(4) + " ".join(rng.choices(words, k=rng.randrange(1, 8))) + f" = {rng.randrange(100)}\n"
        for _ in range(lines)
    )


def join_documents(pieces: Iterable[Piece]) -> Iterator[str]:
    """Yields documents, each as one string."""
    parts = []
    for text, ends_document in pieces:
        parts.append(text)
        if ends_document:
            yield "".join(parts)
            parts = []


def documents(source: Source, split: Split) -> Iterator[str]:
    return join_documents(source.pieces(split))


def build_store(
    source: Source, split: Split, tokenizer: Tokenizer, cache_dir: str | Path, maker: Maker | None = None
) -> TokenStore:
    return find_or_build(source, split, tokenizer, cache_dir, maker).store
