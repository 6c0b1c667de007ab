"""Windows over a token store, which follow the stream and care for no document's end."""

from collections.abc import Sequence

import numpy as np

from transformer.data.records import Record
from transformer.data.text.records import TextRecords
from transformer.data.text.store import TokenStore
from transformer.errors import UserError


class Windows(TextRecords):
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
        return {name: rows[0] for name, rows in self._rows(np.array([index])).items()}

    def draw_many(self, indices: np.ndarray, rngs: Sequence[np.random.Generator]) -> Record:
        """Returns the windows at `indices`, stacked, in a few calls for all of them; nothing is random."""
        del rngs
        return self._rows(indices)

    def _rows(self, indices: np.ndarray) -> Record:
        starts = indices * self._stride
        ends = np.minimum(starts + self._length, len(self.store.tokens))
        shape = len(indices), self._length
        tokens = np.zeros(shape, np.int32)
        within = []  # where documents begin inside each window: not at its start, where there is nothing to tell from
        for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            tokens[row, : end - start] = self.store.tokens[start:end]
            within.append(self.store.starts_within(start, end) - start)
        begun = np.concatenate(within)
        rows = np.repeat(np.arange(len(indices)), [len(places) for places in within])
        begins = np.zeros(shape, np.int32)
        begins[rows, begun] = 1
        segment_ids = np.cumsum(begins, axis=1, dtype=np.int32)
        segment_ids += 1
        begins[rows, begun] = begun  # the place where the token's document began is the last such one before it
        positions = np.arange(self._length, dtype=np.int32) - np.maximum.accumulate(begins, axis=1)
        for row in np.flatnonzero(ends - starts < self._length).tolist():
            filled = ends[row] - starts[row]
            segment_ids[row, filled:] = positions[row, filled:] = 0
        return {"tokens": tokens, "segment_ids": segment_ids, "positions": positions}


class TextWindows(TextRecords):
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
        """Returns the first `count` tokens of text from token `begin` of the store on."""
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
