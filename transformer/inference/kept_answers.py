"""Answering a whole corpus: a teacher's answers to many sources, which a stop does not lose.

Sequence-level distillation (Kim and Rush 2016, "Sequence-level knowledge distillation", section 3.2): a student learns
from what a teacher's beam search answers, in the place of the targets.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from transformer.errors import UserError
from transformer.paths import errors_at

GROUPS = 16
"""Batches of sources, of like lengths within, that are answered before the answers are written."""


class Answers:
    """Answers to some sources, in their order, kept in a file as they come.

    Args:
      file: holds what is answered so far: JSON, a line each, the first one `identity`. It is there until `remove`.
      identity: JSON values that the answers follow from.

    Raises:
      UserError: the file holds other answers.
    """

    def __init__(self, file: Path, identity: Mapping[str, Any]):
        self._file, self._identity = file, json.dumps(identity, sort_keys=True)
        self.done = list(self._read())
        """The answers so far."""

    def _read(self) -> Iterator[str]:
        """Yields the answers that are there, and cuts off one that was not written to its end."""
        if not self._file.exists():
            return
        with errors_at(str(self._file)), self._file.open("r+b") as file:
            whole = 0
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                if number == 0 and line.decode().rstrip("\n") != self._identity:
                    raise UserError(
                        f"{self._file} holds the answers of another teacher, to other sources, or by other settings: "
                        "go on with those, or delete it"
                    )
                if number > 0:
                    yield json.loads(line)
            file.truncate(whole)

    def answer(self, sources: Sequence[str], generate: Callable[[Sequence[str]], list[str]], *, size: int) -> None:
        """Answers the sources that are not answered yet, `size` of them at a time, with a bar.

        Args:
          sources: all of them, the answered ones too.
          generate: returns the answers to some.
          size: how many are answered before they are written.
        """
        first = not self._file.exists() or self._file.stat().st_size == 0
        with (
            errors_at(str(self._file)),
            self._file.open("a", encoding="utf-8") as file,
            tqdm(total=len(sources), initial=len(self.done), unit="source", desc="answer", dynamic_ncols=True) as bar,
        ):
            if first:
                file.write(self._identity + "\n")
            for start in range(len(self.done), len(sources), size):
                answers = generate(sources[start : start + size])
                file.write("".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers))
                file.flush()
                self.done += answers
                bar.update(len(answers))

    def remove(self) -> None:
        """Removes the file, once the answers are elsewhere."""
        self._file.unlink(missing_ok=True)
