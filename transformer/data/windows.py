"""Windows over a token store: training samples by index.

Window i covers stream tokens [i*T, i*T + T + 1): it overlaps the next by one token, so that as inputs and shifted
targets every token of the stream but the first is a target exactly once. Documents are packed; segment ids keep
attention inside them.
"""

import bisect
import itertools
from collections.abc import Sequence

import numpy as np

from transformer.data.store import TokenStore
from transformer.errors import UserError


class Windows:
    """Random access to windows of `seq_len` + 1 tokens.

    Args:
      seq_len: T, the tokens that a model reads at once.
      drop_remainder: leave out the stream's tail that does not fill a window (training), or pad it (evaluation).

    Raises:
      UserError: the stream does not fill one window (or, where padded, has no target).
    """

    def __init__(self, store: TokenStore, seq_len: int, drop_remainder: bool):
        if seq_len < 1:
            raise UserError(f"--train.seq-len {seq_len}: give at least 1.")
        self.store, self.seq_len = store, seq_len
        targets = len(store.tokens) - 1
        self._count = targets // seq_len if drop_remainder else -(-targets // seq_len)
        if self._count < 1:
            raise UserError(
                f"The {store.meta.split} text of {store.meta.source} has {len(store.tokens)} tokens, fewer than one "
                "window of "
                f"{seq_len} + 1: set --train.seq-len to at most {max(1, targets)}, or add text."
            )

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """`tokens`, `segment_ids`, `positions`: int32[T+1] each.

        Segments count the documents in this window from 1; 0 is padding. Positions restart at 0 with each of them, also
        for a document that began in an earlier window.
        """
        if not 0 <= index < self._count:
            raise IndexError(index)
        length = self.seq_len + 1
        start = index * self.seq_len
        found = self.store.tokens[start : start + length]
        filled = len(found)
        offsets = self.store.offsets
        first = np.searchsorted(offsets, start, side="right")  # the first document that starts inside the window
        last = np.searchsorted(offsets, start + filled, side="left")
        starts = np.asarray(offsets[first:last]) - start
        bounds = np.concatenate(([0], starts, [filled]))
        lengths = np.diff(bounds)
        window = {name: np.zeros(length, np.int32) for name in ("tokens", "segment_ids", "positions")}
        window["tokens"][:filled] = found
        window["segment_ids"][:filled] = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        window["positions"][:filled] = np.arange(filled) - np.repeat(bounds[:-1], lengths)
        return window


class JoinedWindows:
    """Windows of several stores, one after the other."""

    def __init__(self, parts: Sequence[Windows]):
        self.parts = tuple(parts)
        self.seq_len = parts[0].seq_len
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        return self.parts[part][index - (self._ends[part - 1] if part else 0)]
