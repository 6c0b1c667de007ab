"""Rows of conversations: as many in each as fit, so that little is padding."""

from typing import NamedTuple

import numpy as np

from transformer.atomic import build_folder
from transformer.data.chats.reading import ChatReading
from transformer.data.chats.store import ChatStore
from transformer.data.records import Record, Records
from transformer.data.splits import digest, held_out, key_hashes
from transformer.data.text.packing import HOW, write_rows
from transformer.data.text.sidecar import Sidecar, Writer, is_whole
from transformer.errors import UserError


class Share(NamedTuple):
    """Which conversations of a file are read, by the hashes of their numbers."""

    held_out: bool
    """Whether those that are held out, or the others."""
    fraction: float
    """How many are held out, 0 to 1."""

    def of(self, count: int) -> np.ndarray:
        """Returns the numbers of these conversations, of so many in all."""
        held = held_out(key_hashes(map(str, range(count))), self.fraction)
        return np.flatnonzero(held == self.held_out)


ALL = Share(held_out=False, fraction=0.0)
"""All conversations."""


class ChatRows(Records):
    """Rows of the conversations of a store.

    Args:
      store: the conversations.
      share: which of them.
      reading: how long a row is.

    Raises:
      UserError: there are none, or none has an answer within a row.
    """

    def __init__(self, store: ChatStore, share: Share, reading: ChatReading, name: str):
        self._store, self._reading, self._share, self._name = store, reading, share, name
        key = digest([str(part) for part in (share, reading.length, *HOW)])
        place = store.folder.with_name(f"{store.folder.name}-rows-{key}")
        build_folder(place, is_whole, lambda folder: self._write(Writer(folder)))
        self._index = Sidecar(place)
        self.conversations: int = self._index.values["conversations"]
        """How many are in the rows."""
        self.cut: int = self._index.values["cut"]
        """How many of these are cut."""
        self.left_out: int = self._index.values["left_out"]
        """How many are in no row, as their first answer comes too late."""
        self.tokens: int = self._index.values["tokens"]

    def _write(self, writer: Writer) -> None:
        numbers, room = self._share.of(len(self._store)), self._reading.length
        if not len(numbers):
            raise UserError(
                f"{self._name}: of {len(self._store):,} conversation(s), --data.validation-fraction "
                f"{self._share.fraction:g} leaves none to train on or none to validate on: give more, or another "
                "fraction"
            )
        fits = self._store.first_answers[numbers] < room
        lengths, kept = self._store.lengths[numbers], numbers[fits]
        if not len(kept):
            raise UserError(f"{self._name}: no conversation has an answer within {room} tokens: raise --train.seq-len")
        within = np.minimum(lengths[fits], room)
        write_rows(writer, "members", [(kept, within[None])], [room])
        writer.finish(
            conversations=len(kept),
            cut=int((lengths[fits] > room).sum()),
            left_out=len(numbers) - len(kept),
            tokens=int(within.sum()),
        )

    def __len__(self) -> int:
        return len(self._index["bounds"]) - 1

    def __getitem__(self, index: int) -> Record:
        """`tokens`, `positions`, `segment_ids` and `answers`, int32[length]: 1 where the assistant says a token.

        Segments count the conversations in the row from 1; 0 is padding. Positions restart at 0 with each.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        row, begin = self._reading.padding(()), 0
        first, last = self._index["bounds"][index : index + 2].tolist()
        for segment, conversation in enumerate(self._index["members"][first:last].tolist(), 1):
            ids, is_answer = self._store[conversation]
            ids, is_answer = ids[: self._reading.length], is_answer[: self._reading.length]
            part = slice(begin, begin + len(ids))
            row["tokens"][part], row["answers"][part] = ids, is_answer
            row["positions"][part], row["segment_ids"][part] = np.arange(len(ids)), segment
            begin += len(ids)
        return row

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of them, a line each."""
        room, notes = self._reading.length, []
        if self.cut:
            notes.append(f"{self._name}: {self.cut:,} of {self.conversations:,} conversations are cut at {room} tokens")
        if self.left_out:
            notes.append(f"{self._name}: {self.left_out:,} conversations left out: no answer within {room} tokens")
        return tuple(notes)
