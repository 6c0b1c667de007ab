"""A source that is read slowly after its first part, so that a build of it is stopped before its end on any machine."""

import time

from transformer.data.text.sources import FileCollection

_SECONDS = 0.02
"""Before each piece."""


class SlowSource(FileCollection):
    def part_pieces(self, part, split):
        is_first = part == self.parts(split)[0]
        for piece in super().part_pieces(part, split):
            if not is_first:
                time.sleep(_SECONDS)
            yield piece
