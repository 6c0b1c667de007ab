"""Records of texts of many lengths, kept in memory, which know their lengths."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from transformer.data.bar import progress_bar
from transformer.data.records import Record
from transformer.tokenizers.framing import Length, Row, Text, framed
from transformer.tokenizers.tokenizer import Tokenizer

_AT_ONCE = 1024


class Ragged:
    """Arrays of int32 of any lengths, one behind another."""

    def __init__(self, arrays: Iterator[np.ndarray] | Sequence[np.ndarray]):
        kept = list(arrays)
        self._values = np.concatenate(kept) if kept else np.zeros(0, np.int32)
        self._offsets = np.cumsum([0, *map(len, kept)])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self._values[self._offsets[index] : self._offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """int64 [arrays]."""
        return np.diff(self._offsets)


class FramedRows:
    """Rows of tokens that a model reads."""

    def __init__(self, rows: Sequence[Row], length: int, pad_id: int):
        """Keeps rows of no more than `length` tokens, to which they are padded with `pad_id`."""
        self.ids, self.token_types = Ragged([row.ids for row in rows]), Ragged([row.token_types for row in rows])
        self.lengths = self.ids.lengths
        self._room, self._pad = length, pad_id

    def __len__(self) -> int:
        return len(self.ids)

    def padded(self, index: int) -> Record:
        """Returns `tokens`, `token_types` and `segment_ids` (1; 0 is padding), int32 [T]."""
        ids = self.ids[index]
        tokens, token_types = np.full(self._room, self._pad, np.int32), np.zeros(self._room, np.int32)
        segment_ids = np.zeros(self._room, np.int32)
        tokens[: len(ids)], token_types[: len(ids)], segment_ids[: len(ids)] = ids, self.token_types[index], 1
        return {"tokens": tokens, "token_types": token_types, "segment_ids": segment_ids}


class FramedTexts(FramedRows):
    """Texts, or pairs of them, as the rows of tokens that a model reads."""

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[Text], length: Length):
        """Tokenizes all texts; arguments and errors as `framing.framed`'s."""
        rows = list(itertools.chain.from_iterable(framed_rows(tokenizer, texts, length)))
        super().__init__(rows, length.most, tokenizer.pad_id)


def framed_rows(
    tokenizer: Tokenizer, texts: Sequence[Text], length: Length, *, windows: bool = False
) -> Iterator[list[Row]]:
    """Yields the rows of each text, as `framing.framed` returns them, with a progress bar."""
    with progress_bar(len(texts), "tokenizing", "text") as bar:
        for start in range(0, len(texts), _AT_ONCE):
            chosen = texts[start : start + _AT_ONCE]
            yield from framed(tokenizer, chosen, length, windows=windows)
            bar.update(len(chosen))


def no_tokens(length: int) -> Record:
    """Returns what `FramedTexts.padded` returns, of padding alone."""
    return {name: np.zeros(length, np.int32) for name in ("tokens", "token_types", "segment_ids")}
