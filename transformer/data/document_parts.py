"""Parts of single documents, for objectives on pairs of sentences."""

import numpy as np

from transformer.data.records import Record, Records
from transformer.data.store import TokenStore
from transformer.errors import UserError

_SHORTEST = 8  # tokens of a part: fewer do not make two sentences


class DocumentParts(Records):
    """Each document, without its begin and end, cut into parts of `length` tokens; the last may be shorter.

    Args:
      length: L, the tokens of a part.
      others: whether `draw` gives a part of another document too.

    Raises:
      UserError: no document is long enough, or there is no other part to draw.
    """

    def __init__(self, store: TokenStore, length: int, others: bool):
        self.store, self._length, self._others = store, length, others
        self.tokens, self.text_bytes = store.meta.tokens, store.meta.text_bytes
        lengths = np.diff(store.offsets) - 2
        tail = lengths % length
        parts = lengths // length + (tail >= min(_SHORTEST, length))
        self._first = np.concatenate(([0], np.cumsum(parts)))  # of each document, the number of its first part
        if len(self) < 1 + others:
            raise UserError(
                f"The {store.meta.split} text of {store.meta.source} has {len(self)} part(s) of a document of at least "
                f"{_SHORTEST} tokens and this objective needs {1 + others}: add text, or lower --train.seq-len."
            )

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Record:
        """`tokens` and `segment_ids`, int32[L]: segment 1 is text, 0 is padding."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        document = self._document(index)
        start = int(self.store.offsets[document]) + 1 + (index - int(self._first[document])) * self._length
        end = min(start + self._length, int(self.store.offsets[document + 1]) - 1)
        part = {name: np.zeros(self._length, np.int32) for name in ("tokens", "segment_ids")}
        part["tokens"][: end - start] = self.store.tokens[start:end]
        part["segment_ids"][: end - start] = 1
        return part

    def draw(self, index: int, rng: np.random.Generator) -> Record:
        """Part `index` and, if asked for, `other_tokens` and `other_segment_ids`: a part of another document.

        In a corpus of one document it is another part of that.
        """
        if not self._others:
            return self[index]
        document = self._document(index)
        first, end = int(self._first[document]), int(self._first[document + 1])
        if end - first == len(self):
            first, end = index, index + 1
        other = int(rng.integers(len(self) - (end - first)))
        found = self[other if other < first else other + end - first]
        return self[index] | {f"other_{name}": value for name, value in found.items()}

    def _document(self, index: int) -> int:
        return int(np.searchsorted(self._first, index, side="right")) - 1
