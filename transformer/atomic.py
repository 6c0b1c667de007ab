"""Folders that appear whole or not at all: built beside their place under a lock, synced, then renamed."""

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from transformer import paths
from transformer.errors import UserError


@contextlib.contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Holds `lock` (a file, created if need be). The kernel frees it when its process dies, however that happens."""
    with errors_named(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_folder(place: Path, is_whole: Callable[[Path], bool], write: Callable[[Path], None]) -> None:
    """Makes `place` hold what `write(folder)` writes, unless `is_whole(place)` says that it is there already.

    Of several processes one builds and the others wait for it. A killed build leaves only a hidden temporary folder,
    which the next build of the same place removes: whoever holds the lock knows that no one else is writing.
    """
    if is_whole(place):
        return
    with exclusive(place.with_name(f".{place.name}.lock")):
        if is_whole(place):
            return
        folder = building_folder(place)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            fill_folder(place, write)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def building_folder(place: Path) -> Path:
    """Returns where `place` is built; only who holds its lock writes there."""
    return place.with_name(f".{place.name}.building")


def fill_folder(place: Path, write: Callable[[Path], None]) -> None:
    """Writes into `building_folder(place)`, which may hold what an earlier attempt left, and renames it when whole."""
    folder = building_folder(place)
    with errors_named(place.parent):
        folder.mkdir(exist_ok=True)
    with full_disk_named(place.parent):
        write(folder)
        for file in folder.iterdir():
            _sync(file)
        _sync(folder)
        shutil.rmtree(place, ignore_errors=True)  # a damaged one
        folder.rename(place)
        _sync(place.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turns a full disk into one line that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in paths.FULL:
            raise UserError(
                f"No space left in {folder}. Free some, or set --data.cache-dir to another disk."
            ) from error
        raise


@contextlib.contextmanager
def errors_named(folder: Path) -> Iterator[None]:
    """Turns a full disk or a folder that cannot be written to into one line that names it."""
    try:
        with full_disk_named(folder):
            yield
    except OSError as error:
        if error.errno in (*paths.FORBIDDEN, *paths.BAD_NAME, errno.EEXIST):  # a file is where a folder is to be
            raise UserError(
                f"Cannot write to {folder} ({error.strerror}). Set --data.cache-dir to another folder."
            ) from error
        raise
