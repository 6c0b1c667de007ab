"""Text with specials in it, where a person means them: everywhere else, text that spells a special is text."""

import re
from collections.abc import Mapping

import numpy as np

from transformer.tokenizers.tokenizer import Spans, Tokenizer


class SpelledTokenizer:
    """Encodes texts in which specials are spelled out.

    Args:
      tokenizer: encodes what is between them.
      specials: the spelling of each, and its id.
      keeps_spaces: whether the space before a special is encoded, where pieces hold the space before a word.
    """

    def __init__(self, tokenizer: Tokenizer, specials: Mapping[str, int], *, keeps_spaces: bool = False):
        self._tokenizer, self._specials, self._keeps_spaces = tokenizer, specials, keeps_spaces
        self._pattern = _splitting(specials) if specials else None
        self.holds_spaces = any(piece and len(piece) > 1 and piece[0] == " " for piece in tokenizer.pieces())
        """Whether the space before a word is part of its piece: a special in the word's place then stands for both."""

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text."""
        *parts, last = [text] if self._pattern is None else self._pattern.split(text)
        ids: list[int] = []
        for part, name in zip(parts[::2], parts[1::2], strict=True):
            before = part.removesuffix(" ") if self.holds_spaces and not self._keeps_spaces else part
            ids += [*self._tokenizer.encode(before), self._specials[name]]
        return ids + self._tokenizer.encode(last)


def spelled_spans(tokenizer: Tokenizer, specials: Mapping[str, int], text: str) -> Spans:
    """Returns the tokens of a text in which specials are spelled out, each with its characters.

    Args:
      tokenizer: encodes what is between them, spaces beside them too.
      specials: the spelling of each, and its id.
      text: the text.
    """
    parts = _splitting(specials).split(text)
    rows = iter(tokenizer.encode_spans(parts[::2]))
    spans, start = [], 0
    for number, part in enumerate(parts):
        if number % 2:
            token, end = np.array([specials[part]], np.int32), np.array([len(part)])
            spans.append(Spans(token, end - len(part), end, np.array([-1])).moved(start))
        else:
            spans.append(next(rows).moved(start))
        start += len(part)
    return Spans(*map(np.concatenate, zip(*spans, strict=True)))


def reserved_names(tokenizer: Tokenizer) -> dict[str, str]:
    """Returns the specials of a tokenizer that was trained here, or is of bytes, by Transformers' names of roles."""
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    return {role: name for role, token in ids.items() if (name := tokenizer.name_of(token)) is not None}


def _splitting(specials: Mapping[str, int]) -> re.Pattern[str]:
    """Returns a pattern that splits a text around specials: the longest first, where one begins another."""
    return re.compile(f"({'|'.join(map(re.escape, sorted(specials, key=len, reverse=True)))})")
