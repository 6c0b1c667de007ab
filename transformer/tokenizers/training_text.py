"""The text that a tokenizer is trained on."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple


class TrainingText(NamedTuple):
    """Text to train a tokenizer on. Nothing is read of it before a tokenizer that is trained is asked for."""

    identity: Callable[[], object]
    """Returns plain values that tell the text from any other: a tokenizer of equal ones is kept."""
    sample: Callable[[int], Iterable[str]]
    """Returns about so many bytes of the text, in strings whose words are few enough for a list in memory."""


def up_to(size: int, texts: Iterable[str]) -> Iterator[str]:
    """Yields texts of about so many bytes in all, from the front."""
    for text in texts:
        size -= len(text.encode())
        if size < 0:
            return
        yield text
