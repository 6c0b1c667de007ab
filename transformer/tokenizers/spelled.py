"""Text with specials in it, where a person means them: everywhere else, text that spells a special is text."""

import re
from collections.abc import Mapping

from transformer.tokenizers.tokenizer import Tokenizer


class SpelledTokenizer:
    """Encodes texts in which specials are spelled out.

    Args:
      tokenizer: encodes what is between them.
      specials: the spelling of each, and its id.
    """

    def __init__(self, tokenizer: Tokenizer, specials: Mapping[str, int]):
        self._tokenizer, self._specials = tokenizer, specials
        spellings = sorted(specials, key=len, reverse=True)  # the longest first, where one begins another
        self._pattern = re.compile(f"({'|'.join(map(re.escape, spellings))})") if specials else None
        self.holds_spaces = any(piece and len(piece) > 1 and piece[0] == " " for piece in tokenizer.pieces())
        """Whether the space before a word is part of its piece: a special in the word's place then stands for both."""

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text."""
        *parts, last = [text] if self._pattern is None else self._pattern.split(text)
        ids: list[int] = []
        for part, name in zip(parts[::2], parts[1::2], strict=True):
            before = part.removesuffix(" ") if self.holds_spaces else part
            ids += [*self._tokenizer.encode(before), self._specials[name]]
        return ids + self._tokenizer.encode(last)
