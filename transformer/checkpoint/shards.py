"""The parts of arrays that one process's devices hold, in plain files: TREE/ARRAY-PART.bin, row-major.

A part that several devices of the process hold is written once. A file's hash is made while it is written, so nothing
is read back for it. What describes the files is JSON; reading executes nothing, and takes no file's name from it.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xxhash

from transformer.params import flatten

Bounds = tuple[tuple[int, int], ...]
"""Start and end of a part on each axis of its array."""
Description = dict[str, dict[str, Any]]
"""Path of an array -> its `shape`, its `dtype` and its `parts`: their `bounds` and, once written, their hash."""

_HASH = "xxh3_128"
_CHUNK = 2**22
_THREADS = 8
"""Files that are written or read at a time."""


class OtherContent(Exception):
    """A file that is not what was written."""


def described(tree: Any) -> Description:
    """Returns what this process holds of a tree of arrays, or of ShapeDtypeStructs with shardings."""
    return {
        path: {
            "shape": list(leaf.shape),
            "dtype": str(leaf.dtype),
            "parts": [{"bounds": [list(pair) for pair in bounds]} for bounds in _places(leaf)],
        }
        for path, leaf in flatten(tree).items()
    }


def same_parts(written: Description, wanted: Description) -> bool:
    """Whether two descriptions are of the same arrays, cut alike; the hashes do not matter."""
    return _without_hashes(written) == _without_hashes(wanted)


def copied(tree: Any) -> list[list[np.ndarray]]:
    """Returns the parts of a tree's arrays on the host, in the order of `described`; waits for the copies alone."""
    parts: list[list[jax.Array]] = []
    for number, leaf in enumerate(flatten(tree).values()):
        held: dict[Bounds, list[jax.Array]] = {}
        for shard in leaf.addressable_shards:
            held.setdefault(_bounds(shard.index, leaf.shape), []).append(shard.data)
        # Devices that hold the same take turns: each has a way to the host of its own.
        parts.append([same[number % len(same)] for _, same in sorted(held.items())])
    for part in (part for of_leaf in parts for part in of_leaf):
        part.copy_to_host_async()
    # A CPU's array is the host's own memory: while it is held here, a step that would overwrite it writes elsewhere.
    return [[np.asarray(part) for part in of_leaf] for of_leaf in parts]


def write(folder: Path, tree: str, description: Description, parts: list[list[np.ndarray]]) -> int:
    """Writes parts to `folder/tree/`, and their hashes into the description; returns the bytes written.

    Raises:
      OSError: one of them could not be written; then others may be there.
    """
    (folder / tree).mkdir()

    def write_part(item: tuple[Path, dict[str, Any], np.ndarray]) -> int:
        path, entry, part = item
        content, hasher = _bytes(part).data, xxhash.xxh3_128()
        with path.open("wb", buffering=0) as file:
            for start in range(0, len(content), _CHUNK):
                chunk = content[start : start + _CHUNK]
                hasher.update(chunk)
                _write_all(file, chunk)
        entry[_HASH] = hasher.hexdigest()
        return len(content)

    items = [
        (path, entry, part)
        for (path, entry), part in zip(
            _files(folder, tree, description), [p for leaf in parts for p in leaf], strict=True
        )
    ]
    with ThreadPoolExecutor(_THREADS) as pool:
        return sum(pool.map(write_part, items))


def read(folder: Path, tree: str, description: Description, abstract: Any) -> Any:
    """Returns a tree of arrays, of which this process's parts are read.

    Args:
      folder: where `write` wrote.
      tree: its name there.
      description: what was written, whose parts are those of `abstract`.
      abstract: the tree of ShapeDtypeStructs with shardings.

    Raises:
      OtherContent: a file is not what was written.
      OSError: it could not be read.
    """
    leaves, treedef = jax.tree.flatten(abstract)
    wanted = list(zip(flatten(abstract).items(), leaves, strict=True))
    files = _files(folder, tree, description)
    held: list[dict[Any, jax.Array]] = [{} for _ in leaves]
    work = []
    for number, ((path, leaf), _) in enumerate(wanted):
        devices = _places(leaf)
        for _ in description[path]["parts"]:
            file, entry = next(files)
            work.append((number, file, entry, leaf.dtype, devices))

    def read_part(item: tuple[int, Path, dict[str, Any], Any, dict[Bounds, list[Any]]]) -> None:
        number, file, entry, dtype, devices = item
        bounds = tuple((start, end) for start, end in entry["bounds"])
        content = np.fromfile(file, np.uint8)
        if xxhash.xxh3_128_hexdigest(content.data) != entry[_HASH]:
            raise OtherContent(f"{file}: its content changed")
        part = content.view(jnp.dtype(dtype)).reshape([end - start for start, end in bounds])
        for device in devices[bounds]:
            held[number][device] = jax.device_put(part, device, may_alias=False)

    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(read_part, work):
            pass
    arrays = [
        jax.make_array_from_single_device_arrays(
            leaf.shape, leaf.sharding, [of_leaf[device] for device in leaf.sharding.addressable_devices]
        )
        for leaf, of_leaf in zip(leaves, held, strict=True)
    ]
    return jax.tree.unflatten(treedef, arrays)


def _places(leaf: Any) -> dict[Bounds, list[Any]]:
    """Returns the parts of an array that this process holds, in order, and the devices that hold each."""
    places: dict[Bounds, list[Any]] = {}
    for device, index in leaf.sharding.addressable_devices_indices_map(leaf.shape).items():
        places.setdefault(_bounds(index, leaf.shape), []).append(device)
    return dict(sorted(places.items()))


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> Bounds:
    return tuple(part.indices(size)[:2] for part, size in zip(index, shape, strict=True))


def _files(folder: Path, tree: str, description: Description) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yields the file of each part, and the part's entry."""
    for number, entry in enumerate(description.values()):
        for part, about in enumerate(entry["parts"]):
            yield folder / tree / f"{number}-{part}.bin", about


def _without_hashes(description: Description) -> Description:
    return {
        path: {**entry, "parts": [part["bounds"] for part in entry["parts"]]} for path, entry in description.items()
    }


def _bytes(part: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(part).reshape(-1).view(np.uint8)


def _write_all(file: Any, content: memoryview) -> None:
    """Writes all of it: a disk that is nearly full takes a part, and refuses the rest."""
    while content:
        content = content[file.write(content) :]
