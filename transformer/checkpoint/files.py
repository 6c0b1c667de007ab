"""Small files of a checkpoint, beside its arrays."""

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
from etils import epath

from transformer.errors import UserError
from transformer.paths import check_folder, replace_whole


class Files:
    """A checkpointable of small files: name, with slashes for folders -> content. The leading process writes them.

    A content may be a function, called in the background when the file is written.
    """

    def __init__(self, files: Mapping[str, bytes | Callable[[], bytes]] | None = None):
        self.files = dict(files or {})

    async def save(self, directory):
        async def write():
            folder = await directory.await_creation()
            for name, content in self.files.items() if jax.process_index() == 0 else ():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content() if callable(content) else content)

        return write()

    async def load(self, directory):
        async def read():
            for path in sorted(directory.glob("*")):
                if path.is_file():
                    self.files[path.name] = path.read_bytes()

        return read()


def check_new(folder: Any) -> None:
    """Raises `UserError` where something is in a folder (a path of pathlib or epath) that is to be written, or where it
    cannot be.
    """
    exists = folder.exists() if "://" in str(folder) else os.path.exists(folder)  # pathlib's raises for a long name
    if exists and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not empty: give a new folder")
    check_folder(folder)


def to_json(record: Mapping[str, Any]) -> bytes:
    """Returns a record as people and `diff` like to read it."""
    return (json.dumps(record, indent=2) + "\n").encode()


def write_atomically(path: epath.Path, content: bytes) -> None:
    """Replaces a file by a complete new one, or leaves it as it was."""
    replace_whole(path, path.parent / f".{path.name}.partial", content)
