"""Images in folders: a folder a class, or a file that lists pictures and captions."""

from collections.abc import Sequence
from pathlib import Path

from transformer.data.images.source import ImageSource, Picture
from transformer.data.listed import listed
from transformer.data.splits import digest
from transformer.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
SPLITS = {"train": ("train", "training"), "validation": ("validation", "val", "valid", "test")}
"""Split -> what its folder may be called, the first that is there."""
_PICTURE = ("image", "path", "file", "filename", "filepath", "file_name")
_CAPTION = ("caption", "text", "title")


class ClassFolders(ImageSource):
    """A folder with a folder of images for each class; in the order of their paths."""

    def __init__(self, folder: Path, labels: Sequence[str] | None = None):
        """Lists the files; none is opened.

        Args:
          folder: it has a folder a class.
          labels: the classes of the training images; None: those that the folder has.

        Raises:
          UserError: it has no images, fewer than two classes, or a class beyond `labels`.
        """
        self.folder = folder
        found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        self.labels = tuple(found if labels is None else labels)
        if len(self.labels) < 2:
            which = f"one class, {self.labels[0]}" if self.labels else "no folders of classes"
            raise UserError(f"{folder} has {which}: put images into a folder for each of at least two classes")
        if unknown := sorted({*found} - {*self.labels}):
            raise UserError(f"{folder / unknown[0]}: a class that the training images do not have ({len(self.labels)})")
        numbers = {name: number for number, name in enumerate(self.labels)}
        self._files = [
            (path.relative_to(folder).as_posix(), numbers[name], size_of(path))
            for name in found
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in ENDINGS and not path.is_dir()
        ]
        if not self._files:
            raise UserError(f"{folder} has no images ({', '.join(ENDINGS)}) in its folders")
        there = {label for _, label, _ in self._files}
        self.notes = tuple(
            f"{folder / name} has no images" for label, name in enumerate(self.labels) if label not in there
        )

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Picture:
        name, label, _ = self._files[index]
        return Picture(read(self.folder / name), str(self.folder / name), label)

    @property
    def keys(self) -> list[str]:
        """The pictures' paths below the folder."""
        return [name for name, _, _ in self._files]

    @property
    def fingerprint(self) -> str:
        """A hash of paths and sizes: contents are not read for it."""
        return digest([*self.labels, *(f"{name} {size}" for name, _, size in self._files)])


class CaptionFile(ImageSource):
    """A .tsv or .jsonl file whose rows name a picture and what is said of it; paths are from the file's folder."""

    def __init__(self, path: Path):
        """Reads the rows, and looks whether each picture is there.

        Raises:
          UserError: a row that lacks something, or names no file; no rows.
        """
        self.path = path
        rows = list(listed(path, _PICTURE, _CAPTION))
        if not rows:
            raise UserError(f"{path} has no rows")
        self._rows = []
        for number, name, caption in rows:
            picture = path.parent / name
            if not picture.is_file():
                raise UserError(f"{path}, line {number}: {picture} is no file: put the image there or mend its path")
            self._rows.append((name, caption, picture.stat().st_size))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Picture:
        name, caption, _ = self._rows[index]
        return Picture(read(self.path.parent / name), str(self.path.parent / name), caption=caption)

    @property
    def keys(self) -> list[str]:
        """The pictures' paths, each of which may have several captions."""
        return [name for name, _, _ in self._rows]

    @property
    def fingerprint(self) -> str:
        return digest([f"{name}\t{caption}\t{size}" for name, caption, size in self._rows])

    def captions(self) -> list[str]:
        return [caption for _, caption, _ in self._rows]


def read(path: Path) -> bytes:
    """Returns a file's content; raises UserError naming it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def size_of(path: Path) -> int:
    """Returns a file's size; raises UserError naming one that is not there, such as the target of a broken link."""
    try:
        return path.stat().st_size
    except OSError as error:
        what = "a link to a file that is not there" if path.is_symlink() else error.strerror or str(error)
        raise UserError(f"{path}: {what}: mend or remove it") from error
