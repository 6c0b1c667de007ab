"""Windows over a token store, which follow the stream and care for no document's end."""

import numpy as np

from transformer.data.records import Record, Records
from transformer.data.store import TokenStore
from transformer.errors import UserError


class Windows(Records):
    """Window i covers stream tokens [i*(L-O), i*(L-O) + L): it shares O tokens with the next.

    With L = T + 1 and O = 1, as inputs and shifted targets, every token of the stream but the first is a target exactly
    once. Documents are packed; segment ids keep attention inside them.

    Args:
      length: L, the tokens of a window.
      overlap: O.
      drop_remainder: leave out the stream's tail that does not fill a window (training), or pad it (evaluation).

    Raises:
      UserError: the stream does not fill one window (or, where padded, has nothing in it that is not shared).
    """

    def __init__(self, store: TokenStore, length: int, overlap: int, drop_remainder: bool):
        self.store, self._length, self._stride = store, length, length - overlap
        self.tokens, self.text_bytes = store.meta.tokens, store.meta.text_bytes
        fresh = len(store.tokens) - overlap
        self._count = fresh // self._stride if drop_remainder else -(-fresh // self._stride)
        if self._count < 1:
            window = f"{self._stride} + {overlap}" if overlap else f"{length}"
            raise UserError(
                f"The {store.meta.split} text of {store.meta.source} has {len(store.tokens)} tokens, fewer than one "
                f"window of {window}: set --train.seq-len to at most {max(1, fresh)}, or add text."
            )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        """`tokens`, `segment_ids`, `positions`: int32[L] each.

        Segments count the documents in this window from 1; 0 is padding. Positions restart at 0 with each of them, also
        for a document that began in an earlier window.
        """
        if not 0 <= index < self._count:
            raise IndexError(index)
        start = index * self._stride
        found = self.store.tokens[start : start + self._length]
        filled = len(found)
        bounds = np.concatenate(([0], self.store.starts_within(start, start + filled) - start, [filled]))
        lengths = np.diff(bounds)
        window = {name: np.zeros(self._length, np.int32) for name in ("tokens", "segment_ids", "positions")}
        window["tokens"][:filled] = found
        window["segment_ids"][:filled] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        window["positions"][:filled] = np.arange(filled) - np.repeat(bounds[:-1], lengths)
        return window


class TextWindows(Records):
    """Window i covers tokens [i*L, (i+1)*L) of the stream without the begin and end of its documents.

    So documents run into each other, as in T5's pretraining data (`reduce_concat_tokens` in its released code).

    Args:
      length: L, the tokens of a window.
      drop_remainder: leave out the stream's tail that does not fill a window (training), or pad it (evaluation).

    Raises:
      UserError: the stream does not fill one window.
    """

    def __init__(self, store: TokenStore, length: int, drop_remainder: bool):
        self.store, self._length = store, length
        self.tokens, self.text_bytes = store.meta.tokens, store.meta.text_bytes
        self._total = total = store.meta.tokens - 2 * store.meta.documents
        self._count = total // length if drop_remainder else -(-total // length)
        if self._count < 1:
            raise UserError(
                f"The {store.meta.split} text of {store.meta.source} has {total} tokens, fewer than one window of "
                f"{length}: lower --train.seq-len, or add text."
            )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        """`tokens` and `segment_ids`, int32[L]: segment 1 is text, 0 is padding."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        start = index * self._length
        end = min(start + self._length, self._total)
        first = self.store.text_document(start)
        # Each document has two tokens more in the store, its begin and its end: they are taken out of the tokens from
        # the first document's on, which is where its text begins.
        begin = start + 2 * first + 1
        window = {name: np.zeros(self._length, np.int32) for name in ("tokens", "segment_ids")}
        window["tokens"][: end - start] = self._text(begin, end - start)
        window["segment_ids"][: end - start] = 1
        return window

    def _text(self, begin: int, count: int) -> np.ndarray:
        """The first `count` tokens of text from token `begin` of the store on."""
        end = begin + count
        while True:
            starts = self.store.starts_within(begin, end + 1) - begin
            if end - begin - 2 * len(starts) >= count:
                break
            end = begin + count + 2 * len(starts)
        # A document's end lies before the next one's begin. The last document's own end comes after all text.
        is_text = np.ones(end - begin, bool)
        is_text[starts[starts < end - begin]] = False
        is_text[starts - 1] = False
        return self.store.tokens[begin:end][is_text][:count]
