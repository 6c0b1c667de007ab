"""Receipts: what was read of a corpus' files, so that no start reads them again while they stay as they are.

A file is recognised by its absolute name, size and time of change. What was found in it (its hash, where it can be cut)
lies in `cache_dir`/receipts/KEY.json; a file that differs is read again, and no other.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformer.atomic import exclusive
from transformer.data.bar import progress_bar
from transformer.errors import UserError
from transformer.paths import write_file

VERSION = 1
_SETTLED_NS = 2 * 10**9  # clocks of file systems are coarse: a file changed this recently may change again unnoticed
_SAVE_SECONDS = 30.0

Facts = dict[str, Any]
"""What was found in a unit, as JSON; `digests` holds a hash a file."""


class Unit(NamedTuple):
    """Files that are read together: one, or two parallel ones; none for what is computed from the name alone."""

    name: str
    files: tuple[str, ...]
    """Absolute names."""


Scan = Callable[[Unit], Facts]
"""Reads a unit. It is picklable, so that worker processes can call it."""
Mapper = Callable[[Scan, Iterable[Unit]], Iterator[Facts]]
"""`map`, or the same by several processes; in order."""


def receipt_path(cache: Path, *key: object) -> Path:
    """Returns where the receipt of the units that `key` describes lies."""
    digest = hashlib.blake2b(repr((VERSION, *key)).encode(), digest_size=12).hexdigest()
    return cache / "receipts" / f"{digest}.json"


class Found(NamedTuple):
    """What is known of the units of a corpus."""

    facts: list[Facts]
    stamps: str
    """A hash of the names, sizes and times of the files that the facts are of."""


def read_units(path: Path, units: Sequence[Unit], scan: Scan, *, name: str, mapper: Mapper = map) -> Found:
    """Returns the facts of each unit: those of the receipt at `path` where its files are as they were, else read anew.

    Of several processes one reads and the others wait for it. A receipt that cannot be written is done without.

    Raises:
      UserError: a file cannot be read, or changed meanwhile.
    """
    recorded = _load(path)
    if not _stale(units, recorded):
        return _found(units, recorded)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(UserError):  # a cache that is only read: nobody waits for this process either
            stack.enter_context(exclusive(path.with_name(f".{path.stem}.lock")))
        recorded = _load(path)
        stale = _stale(units, recorded)
        _read(path, stale, recorded, scan, name, mapper)
        if stale:
            _save(path, {unit.name: recorded[unit.name] for unit in units}, name)
    return _found(units, recorded)


def stamps_now(units: Sequence[Unit]) -> str:
    """`Found.stamps` of the files as they are."""
    return combine([_stamps(unit) for unit in units])


def _found(units: Sequence[Unit], recorded: dict[str, Any]) -> Found:
    entries = [recorded[unit.name] for unit in units]
    return Found([entry["facts"] for entry in entries], combine([entry["files"] for entry in entries]))


def verify_units(path: Path, units: Sequence[Unit], scan: Scan, *, name: str, mapper: Mapper = map) -> list[str]:
    """Reads every unit again; returns the files whose content is not the recorded one, or that no receipt knows.

    What was recorded of them is forgotten, so that the next start reads them again whatever their sizes and times say.
    """
    recorded = _load(path)
    known = [unit for unit in units if unit.name in recorded]
    unknown = [file for unit in units if unit.name not in recorded for file in unit.files]
    anew: dict[str, Any] = {}
    _read(None, known, anew, scan, name, mapper)
    changed, kept = [], dict(recorded)
    for unit in known:
        digests = [entries[unit.name]["facts"]["digests"] for entries in (recorded, anew)]
        differ = [file for file, old, new in zip(unit.files, *digests, strict=True) if old != new]
        if differ:
            del kept[unit.name]
            changed += differ
    if len(kept) != len(recorded):
        _save(path, kept, name)
    return changed + unknown


def recorded_units(path: Path, units: Sequence[Unit]) -> Found | None:
    """Returns what the receipt says of each unit, whatever its files are today; None if it does not know all."""
    recorded = _load(path)
    if any(unit.name not in recorded for unit in units):
        return None
    return _found(units, recorded)


def _read(path: Path | None, stale: Sequence[Unit], recorded: dict[str, Any], scan: Scan, name: str, mapper) -> None:
    """Adds what `scan` finds in the stale units to `recorded`, and saves it now and then."""
    if not stale:
        return
    before = [_stamps(unit) for unit in stale]
    total = sum(size for stamps in before for _, size, _ in stamps)
    saved = time.monotonic()
    with progress_bar(total, f"Reading {name}", "B") as bar:
        for unit, stamps, facts in zip(stale, before, mapper(scan, stale), strict=True):
            if _stamps(unit) != stamps:
                raise UserError(f"{' or '.join(unit.files)} changed while it was read. Run again.")
            settled = all(abs(time.time_ns() - mtime) > _SETTLED_NS for _, _, mtime in stamps)
            recorded[unit.name] = {"files": stamps, "settled": settled, "facts": facts}
            bar.update(sum(size for _, size, _ in stamps))
            if path is not None and time.monotonic() - saved > _SAVE_SECONDS:
                _save(path, recorded, name)
                saved = time.monotonic()


def _stale(units: Sequence[Unit], recorded: dict[str, Any]) -> list[Unit]:
    def is_current(unit: Unit) -> bool:
        entry = recorded.get(unit.name)
        return entry is not None and (not unit.files or (entry["settled"] and entry["files"] == _stamps(unit)))

    return [unit for unit in units if not is_current(unit)]


def _stamps(unit: Unit) -> list[list[Any]]:
    """[name, size, time of change in ns] of each file of a unit."""
    stats = [(file, _stat(file)) for file in unit.files]
    return [[file, stat.st_size, stat.st_mtime_ns] for file, stat in stats]


def _stat(file: str) -> os.stat_result:
    try:
        return os.stat(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {(error.strerror or 'no reason given').lower()}.") from None


def _load(path: Path) -> dict[str, Any]:
    """Returns what a receipt records, by unit; nothing where there is none, or a damaged one: it only saves time."""
    try:
        receipt = json.loads(path.read_text())
        units = receipt["units"] if receipt["version"] == VERSION else {}
        return {name: entry for name, entry in units.items() if {"files", "settled", "facts"} <= entry.keys()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _save(path: Path, units: dict[str, Any], name: str) -> None:
    content = json.dumps({"version": VERSION, "source": name, "units": units})
    with contextlib.suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)


def hash_file(path: str | Path) -> str:
    """Returns a hash of a file's bytes; UserError where it cannot be read."""
    digest = hashlib.blake2b(digest_size=20)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except PermissionError:
        raise UserError(f"{path} cannot be read: permission denied.") from None
    return digest.hexdigest()


def combine(*parts: object) -> str:
    """Returns a fingerprint of plain values."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=20).hexdigest()
