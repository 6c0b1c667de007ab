"""Arrays beside a store that say where its records are: made once, in one pass over its documents, and then mapped.

They lie in `STORE/index/NAME/`. Of several processes one makes them. Where the store's folder cannot be written, each
process makes its own in a temporary folder.
"""

import atexit
import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from transformer.atomic import build_folder
from transformer.data.bar import progress_bar
from transformer.data.text.store import TokenStore
from transformer.errors import UserError

_CHUNK = 1 << 18  # documents at a time: a few megabytes


class Sidecar:
    """A folder of int64 arrays and a few plain values; pickled as its name."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.values: dict[str, Any] = json.loads((folder / "values.json").read_text())

    def __reduce__(self):
        return Sidecar, (self._folder,)

    @functools.cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        return {path.stem: np.asarray(np.memmap(path, np.int64, "r")) for path in self._folder.glob("*.int64")}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]


class Writer:
    """Writes the arrays of a sidecar, piece by piece, and at last its values."""

    def __init__(self, folder: Path):
        self._folder = folder

    def append(self, name: str, values: Iterable[int] | np.ndarray) -> None:
        """Adds values at the end of an array."""
        with (self._folder / f"{name}.int64").open("ab") as file:
            file.write(np.asarray(values, np.int64).tobytes())

    def finish(self, **values: Any) -> None:
        """Writes the plain values."""
        (self._folder / "values.json").write_text(json.dumps(values))


def open_sidecar(stores: tuple[TokenStore, ...], name: tuple[object, ...], write: Callable[[Writer], None]) -> Sidecar:
    """Returns the sidecar `name` of some stores, which lies beside the first of them; `write` makes it if need be.

    A store in memory has its sidecar in a temporary folder.
    """
    first, *others = stores
    folders = [store.folder.name for store in others if store.folder is not None]
    key = hashlib.blake2b(repr((name, folders)).encode(), digest_size=8).hexdigest()
    if first.folder is not None:
        place = first.folder / "index" / f"{name[0]}-{key}"
        if is_whole(place):
            return Sidecar(place)
        try:
            build_folder(place, is_whole, lambda folder: write(Writer(folder)))
            return Sidecar(place)
        except UserError as error:
            if not str(error).startswith("Cannot write to"):
                raise
    folder = Path(tempfile.mkdtemp(prefix="transformer-index-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write(Writer(folder))
    return Sidecar(folder)


def is_whole(place: Path) -> bool:
    """Whether a folder is a sidecar that was written to its end."""
    return (place / "values.json").is_file()


def document_lengths(store: TokenStore, multiple: int = 1) -> Iterator[np.ndarray]:
    """int64[some]: the tokens of each document, in runs whose lengths but the last are a multiple of `multiple`."""
    step, documents = _CHUNK // multiple * multiple, store.meta.documents
    with progress_bar(documents, f"Indexing {store.meta.source} ({store.meta.split})", "documents") as bar:
        for start in range(0, documents, step):
            end = min(start + step, documents)
            yield np.diff(store.offsets[start : end + 1])
            bar.update(end - start)
