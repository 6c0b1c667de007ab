"""What a source of recordings is: clips by index, with their transcripts; a file that lists sound files is one."""

import abc
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from transformer.data.audio.sound import load
from transformer.data.listed import listed
from transformer.data.splits import digest
from transformer.errors import UserError

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


class SoundSource(abc.ABC):
    """Random access to the recordings of a split."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Clip: ...

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A hash of what tells its recordings from others'."""

    def transcripts(self) -> Iterator[str]:
        """Yields what is said in each recording, in order."""
        return (self[index].transcript for index in range(len(self)))


class Manifest(SoundSource):
    """A .tsv or .jsonl file whose rows name a sound file and what is said in it; paths are from the file's folder."""

    def __init__(self, path: Path):
        """Reads the rows, and looks whether each sound file is there; none is opened.

        Raises:
          UserError: a row that lacks something, or names no file; no rows.
        """
        self._folder = path.parent
        self._rows = []
        for number, name, transcript in listed(path, _SOUND, _TRANSCRIPT):
            sound = self._folder / name
            if not sound.is_file():
                raise UserError(f"{path}, line {number}: {sound} is no file: put the sound there or mend its path")
            self._rows.append((name, transcript, sound.stat().st_size))
        if not self._rows:
            raise UserError(f"{path} has no rows")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Clip:
        name, transcript, _ = self._rows[index]
        return Clip(self._folder / name, str(self._folder / name), transcript)

    @property
    def keys(self) -> list[str]:
        """The sound files' paths."""
        return [name for name, _, _ in self._rows]

    @property
    def fingerprint(self) -> str:
        """A hash of rows and sizes: contents are not read for it."""
        return digest([f"{name}\t{transcript}\t{size}" for name, transcript, size in self._rows])


class Part(SoundSource):
    """Some recordings of another source."""

    def __init__(self, source: SoundSource, indices: np.ndarray):
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Clip:
        return self._source[int(self._indices[index])]

    @property
    def fingerprint(self) -> str:
        return digest([self._source.fingerprint, xxhash.xxh3_128_hexdigest(self._indices.astype(np.int64).tobytes())])
