"""Places on disk as people name them: known to be writable before anything is computed that would be lost."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformer.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of a disk that is full."""
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of a place that may not be written to."""
BAD_NAME = (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors of a place that a person named badly."""
_NO_HOME = "Could not determine home directory"
_INSIDE = 256
"""Bytes that the names of the files in a folder may take."""
_SHORT = 32
"""Characters of a file's name that the name of its unfinished copy has: a longer one may not fit."""


def explain(error: Exception, place: str | os.PathLike[str] | None = None) -> str | None:
    """Returns one line for an error of the file system that a person can mend, or None: it is a bug's, or unknown.

    Args:
      place: what was being written, where the error does not say.
    """
    if isinstance(error, RuntimeError) and str(error).startswith(_NO_HOME):
        return "a path begins with ~ and a name that is no user's"
    if not isinstance(error, OSError) or error.errno not in (*FULL, *FORBIDDEN, *BAD_NAME):
        return None
    name = error.filename or place
    where = f"{os.fspath(name)}: " if name else ""
    if error.errno in (*FULL, *FORBIDDEN):
        return f"{where}{error.strerror}: make room or choose another folder, then run the same command again"
    return f"{where}{error.strerror}: give another path" if where else None


@contextlib.contextmanager
def errors_at(place: str | os.PathLike[str]) -> Iterator[None]:
    """Turns an error of the file system that a person can mend into a UserError that names the place."""
    try:
        yield
    except OSError as error:
        if (line := explain(error, place)) is None:
            raise
        raise UserError(line) from error


def expanded(name: str) -> Path:
    """Returns the path that a person names, ~ being a home; UserError for an empty name, or of a user unknown here."""
    if not name:
        raise UserError("a path is empty: name a file or a folder")
    return Path(_expanded(name))


def absolute(name: str) -> str:
    """Returns a path in full, links not followed; a place in an object store is full already."""
    return name if "://" in name else os.path.abspath(os.path.expanduser(name))


def write_file(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Replaces a file by a complete new one, or leaves it as it was.

    What is no regular file (a pipe), and a file in a folder where none can be made, is written to as it is.

    Raises:
      UserError: the disk is full, or the file cannot be written.
    """
    place = Path(os.path.realpath(_expanded(os.fspath(path))))
    data = content.encode() if isinstance(content, str) else content
    with errors_at(place):
        if place.exists() and not (place.is_file() and os.access(place.parent, os.W_OK | os.X_OK)):
            place.write_bytes(data)
            return
        partial = place.with_name(f".{place.name[:_SHORT]}.{os.getpid()}.partial")
        replace_whole(place, partial, data)


def replace_whole(place: Any, partial: Any, data: bytes) -> None:
    """Writes a file (a path of pathlib or epath) under another name beside it and moves it there; where that fails,
    nothing of it is left."""
    try:
        partial.write_bytes(data)
        partial.replace(place)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raises UserError where a folder neither is there nor can be made, or cannot be written to.

    Makes nothing. A place in an object store passes.
    """
    name = os.fspath(folder)
    if "://" in name:
        return
    place = _check_name(name, inside=_INSIDE)
    if os.path.lexists(place) and not os.path.isdir(place):
        raise UserError(f"{name} {_is(place)}: give another folder")
    _check_parents(name, place)


def check_file(path: str | os.PathLike[str], flag: str) -> Path:
    """Returns the file that a person names for what will be written, in full; it may be there already.

    Args:
      path: as it was given.
      flag: that names it.

    Raises:
      UserError: it is a folder, lies in none that is there, or cannot be written.
    """
    name = os.fspath(path)
    if not name:
        raise UserError(f"{flag} is empty: name a file")
    place = _check_name(name)
    if os.path.isdir(place):
        raise UserError(f"{flag} {name} is a folder: name a file")
    target = Path(os.path.realpath(place))  # a link to what is not there yet is written through
    if os.path.lexists(target.parent) and not target.parent.is_dir():
        raise UserError(f"{flag} {name}: {target.parent} {_is(target.parent)}, not a folder")
    if not target.parent.exists():
        raise UserError(f"{flag} {name}: no such folder")
    _check_parents(f"{flag} {name}", target)
    if target.exists() and not os.access(target, os.W_OK):
        raise UserError(f"{flag} {name}: cannot be written: permission denied")
    return place


def _check_name(name: str, inside: int = 0) -> Path:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"{name!r} is not UTF-8: give another path") from None
    if "\0" in name:
        raise UserError(f"{name!r} holds a NUL: give another path")
    place = os.path.abspath(_expanded(name))
    if len(os.fsencode(place)) + inside > os.pathconf("/", "PC_PATH_MAX"):
        raise UserError(f"{_short(name)} is too long: give a shorter path")
    return Path(place)


def _expanded(name: str) -> str:
    home = os.path.expanduser(name)
    if name.startswith("~") and home == name:
        raise UserError(f"{name}: there is no such user: write ./{name} if it is a name")
    return home


def _check_parents(name: str, place: Path) -> None:
    """Raises UserError where the nearest folder that is there lets nothing be made in it."""
    there = next(above for above in (place, *place.parents) if os.path.lexists(above))
    missing = place.relative_to(there).parts
    if not os.path.isdir(there):
        if not missing:
            there = there.parent  # a file that is there
        else:
            raise UserError(f"{name}: {there} {_is(there)}, not a folder: give another path")
    longest = os.pathconf(there, "PC_NAME_MAX")
    if too_long := [part for part in missing if len(os.fsencode(part)) > longest]:
        raise UserError(
            f"{_short(name)}: a name of {len(os.fsencode(too_long[0]))} bytes is too long: give a shorter one"
        )
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        raise UserError(f"{name}: {there} is on a disk that can only be read: give another path")
    if (missing or place == there) and not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{name}: {there} cannot be written to: permission denied")


def _is(place: Path) -> str:
    if os.path.exists(place):
        return "is a file"
    return f"is a link to {os.readlink(place)}, which is not there" if place.is_symlink() else "is not there"


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:40]}...{name[-20:]}"
