"""Tokenised conversations of a file: made once, in one pass over it, and then mapped into memory."""

import os
from pathlib import Path

import numpy as np

from transformer.atomic import build_folder
from transformer.data.bar import progress_bar
from transformer.data.chats.conversations import conversations
from transformer.data.receipts import hash_file
from transformer.data.splits import digest
from transformer.data.text.sidecar import Sidecar, Writer, is_whole
from transformer.errors import UserError
from transformer.tokenizers.chat import ChatTemplate

_VERSION = "1"
_BATCH = 1024  # conversations in memory at a time


class ChatStore:
    """Conversations as tokens, with what the assistant says in them; pickled as the name of a folder.

    The array `codes` has, for each token, twice its id, and 1 more where the assistant says it; `bounds` has where each
    conversation begins and the last one ends.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._arrays = Sidecar(folder)
        self.content: str = self._arrays.values["content"]
        """A hash of the file."""

    def __reduce__(self):
        return ChatStore, (self.folder,)

    @classmethod
    def open(cls, path: Path, template: ChatTemplate, cache: Path) -> "ChatStore":
        """Returns the conversations of a file; reads it if it is another than the one that the cache knows.

        Args:
          path: a .jsonl file.
          template: renders and encodes them.
          cache: the folder that keeps stores.

        Raises:
          UserError: a line is no conversation, or none that the template renders; or no assistant speaks in it.
        """
        if not path.is_file():
            raise UserError(f"{path}: no such file: give a .jsonl file with a conversation a line")
        facts = path.stat()
        what = [_VERSION, os.path.abspath(path), str(facts.st_size), str(facts.st_mtime_ns)]
        reader = [template.tokenizer.fingerprint, template.fingerprint]
        place = cache / "chats" / digest([*what, *reader])
        build_folder(place, is_whole, lambda folder: _write(Writer(folder), path, template))
        return cls(place)

    def __len__(self) -> int:
        return len(self._arrays["bounds"]) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64[n]: tokens of each conversation."""
        return np.diff(self._arrays["bounds"])

    @property
    def first_answers(self) -> np.ndarray:
        """int64[n]: the place of the first token that the assistant says in each conversation."""
        return self._arrays["first_answers"]

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the tokens of a conversation, int32[tokens], and which of them the assistant says, bool[tokens]."""
        begin, end = self._arrays["bounds"][index : index + 2].tolist()
        codes = self._arrays["codes"][begin:end]
        return (codes >> 1).astype(np.int32), (codes & 1).astype(bool)


def _write(writer: Writer, path: Path, template: ChatTemplate) -> None:
    codes: list[np.ndarray] = []
    lengths: list[int] = []
    firsts: list[int] = []
    end = 0

    def flush() -> None:
        nonlocal end
        writer.append("codes", np.concatenate(codes))
        bounds = end + np.cumsum(lengths)
        writer.append("bounds", bounds)
        writer.append("first_answers", firsts)
        end = int(bounds[-1])
        for held in (codes, lengths, firsts):
            held.clear()

    writer.append("bounds", [0])
    count = 0
    with progress_bar(None, f"Tokenising {path.name}", "conversations") as bar:
        for where, messages in conversations(path):
            try:
                ids, is_answer = template.turns(messages)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            if not is_answer[1:].any():
                raise UserError(f"{where}: the assistant says nothing, so that there is nothing to learn: remove it")
            codes.append(2 * ids.astype(np.int64) + is_answer)
            lengths.append(len(ids))
            firsts.append(1 + int(np.argmax(is_answer[1:])))
            count += 1
            bar.update(1)
            if len(codes) == _BATCH:
                flush()
    if not count:
        raise UserError(f"{path} has no conversation")
    if codes:
        flush()
    writer.finish(content=hash_file(path), conversations=count)
