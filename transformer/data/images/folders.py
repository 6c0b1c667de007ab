"""Images in folders: a folder a class, or a file that lists pictures and captions."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from transformer.data.images.source import ImageSource, Picture
from transformer.data.listing import ListedSource, Listing, Listings, of_rows
from transformer.data.splits import digest
from transformer.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
SPLITS = {"train": ("train", "training"), "validation": ("validation", "val", "valid", "test")}
"""Split -> what its folder may be called, the first that is there."""
_PICTURE = ("image", "path", "file", "filename", "filepath", "file_name")
_CAPTION = ("caption", "text", "title")


class ClassFolders(ListedSource[Picture], ImageSource):
    """A folder with a folder of images for each class; in the order of their paths."""

    def __init__(self, folder: Path, listings: Listings, labels: Sequence[str] | None = None):
        """Lists the files; none is opened.

        Args:
          folder: it has a folder a class.
          listings: where its files may be listed already.
          labels: the classes of the training images; None: those that the folder has.

        Raises:
          UserError: it has no images, fewer than two classes, or a class beyond `labels`.
        """
        found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        self.labels = tuple(found if labels is None else labels)
        if len(self.labels) < 2:
            which = f"one class, {self.labels[0]}" if self.labels else "no folders of classes"
            raise UserError(f"{folder} has {which}: put images into a folder for each of at least two classes")
        if unknown := sorted({*found} - {*self.labels}):
            raise UserError(f"{folder / unknown[0]}: a class that the training images do not have ({len(self.labels)})")
        super().__init__(folder, listings.get(class_folders(folder, labels), lambda: self._list(folder, found)))
        there = np.bincount(self.listing.values, minlength=len(self.labels))
        self.notes = tuple(
            f"{folder / name} has no images" for name, count in zip(self.labels, there, strict=True) if not count
        )

    def _list(self, root: Path, found: Sequence[str]) -> tuple[Listing, list[str]]:
        """Returns the images of some classes, and all folders that they lie in."""
        names: list[str] = []
        classes, content, watched = [], [], [os.path.abspath(root)]
        for name in found:
            files: list[tuple[str, ...]] = []
            for folder, _, inside in os.walk(root / name):
                watched.append(os.path.abspath(folder))
                at = Path(folder).relative_to(root).parts
                files += [(*at, file) for file in inside if os.path.splitext(file)[1].lower() in ENDINGS]
            names += ["/".join(parts) for parts in sorted(files)]
            classes += [self.labels.index(name)] * len(files)
        if not names:
            raise UserError(f"{root} has no images ({', '.join(ENDINGS)}) in its folders")
        content = [f"{name} {size_of(root / name)}" for name in names]
        return Listing.of(names, np.array(classes, np.int32), digest([*self.labels, *content])), watched

    def __getitem__(self, index: int) -> Picture:
        path = self.path(index)
        return Picture(read(path), str(path), int(self.listing.values[index]))


def class_folders(folder: Path, labels: Sequence[str] | None = None) -> tuple[str, ...]:
    """Returns the key of a listing of folders of classes; the arguments are `ClassFolders`'."""
    return "classes", os.path.abspath(folder), *(() if labels is None else labels)


class CaptionFile(ListedSource[Picture], ImageSource):
    """A .tsv or .jsonl file whose rows name a picture and what is said of it; paths are from the file's folder."""

    def __init__(self, path: Path, listings: Listings):
        """Reads the rows, and looks whether each picture is there.

        Raises:
          UserError: a row that lacks something, or names no file; no rows.
        """
        rows = of_rows(path, _PICTURE, _CAPTION, "image")
        super().__init__(path.parent, listings.get(("captions", os.path.abspath(path)), rows))

    def __getitem__(self, index: int) -> Picture:
        path = self.path(index)
        return Picture(read(path), str(path), caption=self.listing.values[index])

    def texts(self) -> Sequence[str]:
        return self.listing.values


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
