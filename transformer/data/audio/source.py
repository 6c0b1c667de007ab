"""What a source of recordings is: clips by index, with their transcripts; a file that lists sound files is one."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer.data.audio.sound import load
from transformer.data.listing import ListedSource, Listings, of_rows
from transformer.data.source import Source

_SOUND = ("audio", "path", "file")
_TRANSCRIPT = ("text", "transcript")


@dataclasses.dataclass(frozen=True)
class Clip:
    """A recording of a source."""

    content: Path | np.ndarray
    """A sound file, or float32 [samples], from -1 to 1, 16,000 a second."""
    name: str
    """What people find it by."""
    transcript: str

    def samples(self) -> np.ndarray:
        """Returns float32 [samples]; raises UserError for a file that is no sound."""
        return load(self.content) if isinstance(self.content, Path) else self.content


SoundSource = Source[Clip]


class Manifest(ListedSource[Clip]):
    """A .tsv or .jsonl file whose rows name a sound file and what is said in it; paths are from the file's folder."""

    def __init__(self, path: Path, listings: Listings):
        """Reads the rows, and looks whether each sound file is there; none is opened.

        Raises:
          UserError: a row that lacks something, or names no file; no rows.
        """
        read = of_rows(path, _SOUND, _TRANSCRIPT, "sound")
        super().__init__(path.parent, listings.get(("recordings", os.path.abspath(path)), read))

    def __getitem__(self, index: int) -> Clip:
        path = self.path(index)
        return Clip(path, str(path), self.listing.values[index])

    def texts(self) -> Sequence[str]:
        return self.listing.values
