"""A checkpoint's seal: the size and the hash of each of its files, written once all of them are there.

The hash is XXH3 of 128 bits, which is as fast as memory is read: it tells of accidents, as the seal is to, and not of
forgers. Seals of earlier versions hold SHA-256, which is read as well.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xxhash
from etils import epath

from transformer.checkpoint.files import to_json, write_atomically

SEAL = "seal.json"
Entries = dict[str, dict[str, Any]]
"""File, by name with slashes -> its `size` in bytes and, of a local one, its `xxh3_128`."""

_HASH = "xxh3_128"
_HASHES: Mapping[str, Callable[[], Any]] = {_HASH: xxhash.xxh3_128, "sha256": hashlib.sha256}
_CHUNK = 2**22
_THREADS = 8
"""Files that are looked at or hashed at a time: both wait for the file system, and hashing lets other threads run."""


def seal(folder: epath.Path) -> int:
    """Writes `seal.json`; returns the files' bytes in all."""
    return write_seal(folder, entries(folder))


def entries(folder: epath.Path, names: Iterable[str] | None = None) -> Entries:
    """Returns what a seal says of files, all of a checkpoint's by default; reads each of them.

    Files of an object store are sealed by their size alone: the store itself guards their content, and to hash them
    would be to fetch them.
    """
    hashed = is_local(folder)

    def entry(name: str) -> dict[str, Any]:
        path = folder / name
        return {"size": path.stat().length} | ({_HASH: _digest(path, _HASH)} if hashed else {})

    wanted = sorted(sealed_files(folder) if names is None else names)
    return dict(zip(wanted, _each(entry, wanted), strict=True))


def write_seal(folder: epath.Path, sealed: Entries) -> int:
    """Writes `seal.json` with these entries; returns the files' bytes in all."""
    write_atomically(folder / SEAL, to_json({"files": {name: sealed[name] for name in sorted(sealed)}}))
    return sum(entry["size"] for entry in sealed.values())


def writer(name: str, processes: int) -> int:
    """Returns which of the processes that saved a checkpoint wrote a file, and so has it in memory still.

    Each writes its arrays to a folder of its own; the leading one, all else.
    """
    wrote = re.search(r"/ocdbt\.process_(\d+)/", name)
    return int(wrote[1]) if wrote and int(wrote[1]) < processes else 0


def seal_problems(folder: epath.Path, *, up_to: int | None = None) -> list[str] | None:
    """Returns what is not as it was sealed, a line a file; None if the checkpoint bears no seal.

    Args:
      folder: the checkpoint.
      up_to: hash the record and other files of at most so many bytes, and look at the presence and the size of the
        others; None: hash all.
    """
    try:
        sealed: Entries = json.loads((folder / SEAL).read_bytes())["files"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return [f"{SEAL}: not a seal"]
    there = sealed_files(folder)

    def problem(name: str) -> str | None:
        entry = sealed[name]
        if name not in there:
            return f"{name}: missing"
        if (size := there[name].stat().length) != entry["size"]:
            return f"{name}: {size} bytes, sealed with {entry['size']}"
        if up_to is None or size <= up_to or name.startswith("record/"):
            for kind in _HASHES.keys() & entry.keys():
                if _digest(there[name], kind) != entry[kind]:
                    return f"{name}: its content changed"
        return None

    lines = [f"{name}: not sealed with the others" for name in sorted(there.keys() - sealed.keys())]
    return lines + [line for line in _each(problem, sealed) if line]


def strays(folder: epath.Path) -> list[str]:
    """Returns a line for each file of a local folder that lies outside of it, and is there by a link."""
    if not is_local(folder):
        return []
    root = Path(folder).resolve()  # epath's own does not follow links
    outside: dict[str, None] = {}

    def look(place: str, prefix: str, by_link: bool) -> None:
        for item in _listed(place):
            name, linked = f"{prefix}{item.name}", by_link or item.is_symlink()
            if item.is_dir():
                look(item.path, f"{name}/", linked)
            elif linked and not Path(item.path).resolve().is_relative_to(root):
                outside[name] = None

    look(str(folder), "", False)
    return [f"{name}: a link that leads out of the checkpoint" for name in outside]


def is_local(folder: epath.Path) -> bool:
    """Whether a path is one of this machine's file system, rather than of an object store."""
    return "://" not in str(folder)


def sealed_files(folder: epath.Path, prefix: str = "") -> dict[str, epath.Path]:
    """Returns a folder's files, those of the folders in it too, by name with slashes; not the seal.

    Of a local folder only the listings are read: to ask for the kind of each file would be a call each.
    """
    files: dict[str, epath.Path] = {}
    if is_local(folder):
        items = [(item.name, item.is_dir()) for item in _listed(str(folder))]
    else:
        items = sorted((path.name, path.is_dir()) for path in folder.iterdir())
    for name, is_dir in items:
        if is_dir:
            files |= sealed_files(folder / name, f"{prefix}{name}/")
        elif prefix or name not in (SEAL, f".{SEAL}.partial"):
            files[f"{prefix}{name}"] = folder / name
    return files


def _listed(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as items:
        return sorted(items, key=lambda item: item.name)


def _each(function: Callable[[str], Any], names: Iterable[str]) -> list[Any]:
    """Returns a function's results for names, in their order, some computed at a time."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(function, names))


def _digest(path: epath.Path, kind: str) -> str:
    digest = _HASHES[kind]()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
