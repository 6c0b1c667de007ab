"""What happens to samples that cannot be read."""

import sys

from transformer.errors import UserError


class Damaged:
    """Samples that could not be read and are left out, each named once."""

    def __init__(self, *, skip: bool):
        self.skip = skip
        self._names: set[str] = set()

    def note(self, error: UserError, name: str) -> None:
        """Takes note of a sample that cannot be read; raises the error where none may be left out."""
        if not self.skip:
            raise error
        if name not in self._names:
            self._names.add(name)
            print(f"\nleft out ({len(self._names)} so far): {error}", file=sys.stderr, flush=True)
