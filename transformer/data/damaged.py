"""What happens to samples that cannot be read."""

import fcntl
import sys
from pathlib import Path

from transformer.errors import UserError


class Damaged:
    """Samples that could not be read and are left out: each is named once, by whichever process meets it first."""

    def __init__(self, path: Path | None):
        """The list of them.

        Args:
          path: a file that every process adds to, a name a line; None: none may be left out.
        """
        self.path = path
        self._noted: set[str] = set()

    def note(self, error: UserError, name: str) -> None:
        """Takes note of a sample that cannot be read; raises UserError where none may be left out."""
        if self.path is None:
            raise UserError(f"{error}; --data.skip-damaged True leaves such samples out") from error
        if name in self._noted:
            return
        self._noted.add(name)
        if count := _add_line(self.path, " ".join(name.splitlines())):
            print(f"\nleft out ({count} so far, listed in {self.path}): {error}", file=sys.stderr, flush=True)

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of samples that were left out before; empty where none was."""
        if self.path is None or not self.path.exists():
            return ()
        count = len(self.path.read_text(encoding="utf-8").splitlines())
        return (f"{count} sample(s) could not be read before and are left out: they are listed in {self.path}",)


def _add_line(path: Path, line: str) -> int:
    """Adds a line to a file that other processes add to as well; returns how many it has then, 0 if it had this one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            lines = file.read().splitlines()
            if line in lines:
                return 0
            file.write(f"{line}\n")
            return len(lines) + 1
    except OSError as error:
        raise UserError(
            f"{path}: the list of samples left out cannot be written ({error.strerror or error})"
        ) from error
