"""Records of text: what objectives read of a token store. The ways to cut one are in files of their own."""

import dataclasses
from typing import Literal

import numpy as np

from transformer.data.records import Reading, Record, Records


@dataclasses.dataclass(frozen=True)
class TextReading(Reading):
    """Which records an objective reads of text, and how long."""

    kind: Literal["windows", "text", "documents"]
    """`windows` of packed documents with their begin and end, `text` without them, or parts of single `documents`."""
    length: int
    """Tokens of a record."""
    overlap: int = 0
    """Tokens that a window shares with the next."""
    others: bool = False
    """Whether a part of a document comes with a part of another document."""

    def padding(self, input_size: tuple[int, ...]) -> Record:
        del input_size
        names = ["tokens", "segment_ids", *(["positions"] if self.kind == "windows" else [])]
        if self.others:
            names += [f"other_{name}" for name in names]
        return {name: np.zeros(self.length, np.int32) for name in names}


class TextRecords(Records):
    """Records of tokens."""

    tokens: int
    """Tokens of the split."""
    text_bytes: int
    """Bytes of the split's text in UTF-8."""
