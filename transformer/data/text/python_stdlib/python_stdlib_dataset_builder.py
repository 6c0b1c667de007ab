"""TFDS builder of the source of Python's own standard library: real code, at hand wherever Python is.

No tests (`test`, `tests`, `idle_test`), nothing installed (`site-packages`), only files that are UTF-8. The dataset's
version is Python's, so that corpora of different Pythons never share a folder.
"""

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from transformer.data.text.sources import unit_hash

VALIDATION_FRACTION = 0.05
_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class LibraryBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder of texts of the standard library, as features."""

    VERSION = tfds.core.Version("{}.{}.{}".format(*sys.version_info[:3]))
    DESCRIPTION: str
    FEATURES: tuple[str, ...]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict({name: tfds.features.Text() for name in self.FEATURES}),
            # One process writes a dozen megabytes in order: equal libraries give equal files.
            disable_shuffling=True,
            license="PSF-2.0",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager  # nothing to download
        root = Path(sysconfig.get_paths()["stdlib"])
        return {split: self._generate_examples(root, split) for split in ("train", "validation")}


class Builder(LibraryBuilder):
    """Features: `text`, a file's source; `path`, where it lies below the library's folder, with forward slashes."""

    DESCRIPTION = "The source of Python's standard library, split by file."
    FEATURES = ("text", "path")

    def _generate_examples(self, root: Path, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        for index, (path, text) in enumerate(source_files(root)):
            if split == ("validation" if unit_hash(path) < VALIDATION_FRACTION else "train"):
                yield index, {"text": text, "path": path}


def source_files(root: Path) -> Iterator[tuple[str, str]]:
    """(relative path, text) of each file of the corpus under `root`, sorted by path."""
    files = ((file.relative_to(root).as_posix(), file) for file in root.rglob("*.py"))
    for path, file in sorted(files):
        if _SKIPPED.isdisjoint(path.split("/")[:-1]):
            try:
                text = file.read_bytes().decode("utf-8")
            except (UnicodeDecodeError, OSError):
                continue  # a few files declare another encoding; a dangling link is no text
            if text and "\0" not in text:
                yield path, text
