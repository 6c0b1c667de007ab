"""Rows of pairs: as many in each as fit, so that little is padding."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from transformer.data.records import Reading, Record
from transformer.data.text.packing import HOW, write_rows
from transformer.data.text.records import TextRecords
from transformer.data.text.sidecar import Writer, document_lengths, open_sidecar
from transformer.data.text.store import TokenStore
from transformer.errors import UserError


@dataclasses.dataclass(frozen=True)
class PairReading(Reading):
    """Rows of pairs, and how long they are."""

    length: int
    """Tokens of a row's sources."""
    target_length: int
    """Tokens of a row's targets."""
    begin: bool = False
    """Whether each text begins with <s>."""

    def padding(self, input_size: tuple[int, ...]) -> Record:
        del input_size
        sides, names = {"": self.length, "target_": self.target_length}, ("tokens", "positions", "segment_ids")
        return {f"{side}{name}": np.zeros(length, np.int32) for side, length in sides.items() for name in names}


class PairRows(TextRecords):
    """Rows of pairs from one part of the corpus, up to S tokens of sources and T of targets.

    Each text ends with </s> and, where the reading says so, begins with <s>. A pair that no row can hold is left out.

    Args:
      sources: its document i belongs to document i of `targets`.
      targets: the other side.
      reading: S is its `length`, T its `target_length`.

    Raises:
      UserError: fewer than half of the pairs fit a row.
    """

    def __init__(self, sources: TokenStore, targets: TokenStore, reading: PairReading):
        if sources.meta.documents != targets.meta.documents:  # both are written from one stream of pairs
            raise ValueError(f"{sources.meta.documents} sources and {targets.meta.documents} targets")
        self._sides, self._reading = (sources, targets), reading
        self.tokens = sources.meta.tokens + targets.meta.tokens
        self.text_bytes = sources.meta.text_bytes + targets.meta.text_bytes
        self._room = (reading.length, reading.target_length)
        index = open_sidecar((sources, targets), ("rows", *self._room, reading.begin, *HOW), self._write)
        self._index, self._count = index, int(index.values["rows"])
        self.left_out = int(index.values["left_out"])
        """Pairs that are too long for a row."""
        self.padding = 1 - index.values["text"] / (len(self) * sum(self._room))

    def _lengths(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Runs of pairs: the number of the first, their lengths, int[2, some], and which of them fit a row."""
        first = 0
        for both in zip(*map(document_lengths, self._sides), strict=True):
            lengths = np.stack(both) - 1 + self._reading.begin
            yield first, lengths, (lengths[0] <= self._room[0]) & (lengths[1] <= self._room[1])
            first += len(both[0])

    def _write(self, writer: Writer) -> None:
        """Writes `pairs`, row by row, and `bounds`, where in it each row begins and the last one ends."""
        documents, meta = self._sides[0].meta.documents, self._sides[0].meta
        fitting, text = 0, 0
        for _, lengths, fits in self._lengths():
            fitting += int(fits.sum())
            text += int(lengths[:, fits].sum())
        left_out = documents - fitting
        if left_out * 2 > documents:
            raise UserError(
                f"{left_out} of {documents} pairs of {meta.source} ({meta.split}) are longer than "
                f"{self._room[0]} tokens of source or {self._room[1]} of target: raise --train.seq-len or "
                "--objective.target-len"
            )
        runs = ((first + np.flatnonzero(fits), lengths[:, fits]) for first, lengths, fits in self._lengths())
        rows = write_rows(writer, "pairs", runs, self._room)
        writer.finish(rows=rows, left_out=left_out, text=text)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        """`tokens`, `positions`, `segment_ids`, int32[S], of the sources, and `target_...`, int32[T], of the targets.

        Segments count the pairs in the row from 1; 0 is padding. Positions restart at 0 with each.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        first, end = self._index["bounds"][index : index + 2].tolist()
        pairs = self._index["pairs"][first:end]
        row: Record = {}
        for prefix, store, room in zip(("", "target_"), self._sides, self._room, strict=True):
            begins, ends = store.offsets[pairs] + (not self._reading.begin), store.offsets[pairs + 1]
            lengths = ends - begins
            filled = int(lengths.sum())
            within = np.arange(filled) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            side = {name: np.zeros(room, np.int32) for name in ("tokens", "positions", "segment_ids")}
            side["tokens"][:filled] = store.tokens[np.repeat(begins, lengths) + within]
            side["positions"][:filled] = within
            side["segment_ids"][:filled] = np.repeat(np.arange(1, len(pairs) + 1), lengths)
            row |= {f"{prefix}{name}": values for name, values in side.items()}
        return row
