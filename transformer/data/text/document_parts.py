"""Parts of single documents, for objectives on pairs of sentences."""

from typing import NamedTuple

import numpy as np

from transformer.data.records import Record
from transformer.data.text.records import TextRecords
from transformer.data.text.sidecar import Writer, document_lengths, open_sidecar
from transformer.data.text.store import TokenStore
from transformer.errors import UserError

_SHORTEST = 8  # tokens of a part: fewer do not make two sentences
_BLOCK = 1024  # documents whose parts are counted together; the counts within a block are found when they are needed


class _Document(NamedTuple):
    start: int
    """Its first token in the stream, which is its begin."""
    end: int
    """The token after its end."""
    first: int
    """The number of its first part."""
    after: int
    """The number of the part after its last."""


class DocumentParts(TextRecords):
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
        self._index = open_sidecar((store,), ("parts", length, _SHORTEST, _BLOCK), self._write)
        self._count: int = self._index.values["parts"]
        if len(self) < 1 + others:
            raise UserError(
                f"The {store.meta.split} text of {store.meta.source} has {len(self)} part(s) of a document of at least "
                f"{_SHORTEST} tokens and this objective needs {1 + others}: add text, or lower --train.seq-len."
            )

    def _write(self, writer: Writer) -> None:
        """Writes `first`: the number of the first part of every `_BLOCK`-th document."""
        parts = 0
        for lengths in document_lengths(self.store, _BLOCK):
            counts = np.add.reduceat(self._parts(lengths), np.arange(0, len(lengths), _BLOCK))
            ends = parts + np.cumsum(counts)
            writer.append("first", ends - counts)
            parts = int(ends[-1])
        writer.finish(parts=parts)

    def _parts(self, lengths: np.ndarray) -> np.ndarray:
        """Returns how many parts documents of so many tokens, with begin and end, are cut into."""
        text = lengths - 2
        return text // self._length + (text % self._length >= min(_SHORTEST, self._length))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        """`tokens` and `segment_ids`, int32[L]: segment 1 is text, 0 is padding."""
        return self._part(index, self._document(index))

    def _part(self, index: int, document: _Document) -> Record:
        start = document.start + 1 + (index - document.first) * self._length
        end = min(start + self._length, document.end - 1)
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
        first, end = document.first, document.after
        if end - first == len(self):
            first, end = index, index + 1
        other = int(rng.integers(len(self) - (end - first)))
        part = self[other if other < first else other + end - first]
        return self._part(index, document) | {f"other_{name}": value for name, value in part.items()}

    def _document(self, index: int) -> _Document:
        if not 0 <= index < len(self):
            raise IndexError(index)
        firsts = self._index["first"]
        block = int(np.searchsorted(firsts, np.int64(index), side="right")) - 1
        begin = block * _BLOCK
        offsets = self.store.offsets[begin : min(begin + _BLOCK, self.store.meta.documents) + 1]
        ends = int(firsts[block]) + np.cumsum(self._parts(np.diff(offsets)))
        within = int(np.searchsorted(ends, index, side="right"))
        first = int(ends[within - 1]) if within else int(firsts[block])
        return _Document(int(offsets[within]), int(offsets[within + 1]), first, int(ends[within]))
