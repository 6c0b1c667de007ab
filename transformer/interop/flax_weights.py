"""Flax's weight files: flax_model.msgpack, one file or shards with an index. No pickle: nothing is executed.

A file is a tree of maps whose leaves are arrays. Its leaves are found first, by one pass over the file that keeps no
array; each is then read when it is looked up: memory stays near the largest array.
"""

import contextlib
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from flax import serialization
from flax.traverse_util import unflatten_dict

from transformer.errors import UserError
from transformer.interop.files import read_weight_map, shard_path
from transformer.interop.lazy import LazyArrays

WEIGHTS = "flax_model.msgpack"
INDEX = f"{WEIGHTS}.index.json"

_CHUNKED = "__msgpack_chunked_array__"
_DEPTH = 32


@contextlib.contextmanager
def open_arrays(folder: Path) -> Iterator[LazyArrays]:
    """Yields the arrays of a folder by paths joined by "/", from its one file or from the shards in its index.

    Raises:
      UserError: a missing, truncated or foreign file, or a shard that lacks an array of the index.
    """
    weight_map = {} if (folder / WEIGHTS).exists() else read_weight_map(folder / INDEX)
    with contextlib.ExitStack() as stack:
        names = sorted(set(weight_map.values())) or [WEIGHTS]
        files = {name: stack.enter_context(_File(shard_path(folder / INDEX, name))) for name in names}
        for path, name in weight_map.items():
            if path not in files[name].leaves:
                raise UserError(f"{folder / name} lacks array {path!r}, which {INDEX} says it holds")
        places = {path: (file, path) for file in files.values() for path in file.leaves}
        yield LazyArrays(places, lambda place: place[0].read(place[1]))


def save(arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes one file with a tree from paths joined by "/". Beside the arrays it holds the bytes of one in memory."""
    with path.open("wb") as file:
        _pack(unflatten_dict(dict(arrays), sep="/"), file)


def _pack(tree: Any, file: Any) -> None:
    if not isinstance(tree, dict):
        file.write(serialization.msgpack_serialize(tree))
        return
    packer = msgpack.Packer()
    file.write(packer.pack_map_header(len(tree)))
    for name, part in tree.items():
        file.write(packer.pack(name))
        _pack(part, file)


class _File:
    """One file, and the places of its arrays."""

    def __init__(self, path: Path):
        self._path = path
        try:
            self.leaves = _leaves(path)
        except msgpack.OutOfData as error:
            raise UserError(f"{path}: not a whole file: it ends in the middle of an array") from error
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}") from error
        except (msgpack.UnpackException, ValueError) as error:
            raise UserError(f"{path}: not a tree of Flax's arrays: {error}") from error

    def __enter__(self) -> "_File":
        self._file = self._path.open("rb")
        self._bytes = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return self

    def __exit__(self, *error: object) -> None:
        self._bytes.close()
        self._file.close()

    def read(self, path: str) -> np.ndarray:
        """Returns one array; raises UserError where its bytes are no array."""
        start, end = self.leaves[path]
        try:
            array = serialization.msgpack_restore(self._bytes[start:end])
        except Exception as error:  # whatever a damaged header makes NumPy say
            raise UserError(f"{self._path}: {path!r} cannot be read: {error}") from error
        if not isinstance(array, np.ndarray):
            raise UserError(f"{self._path}: {path!r} is no array: a training state, not a model's weights?")
        return array


def _leaves(path: Path) -> dict[str, tuple[int, int]]:
    """Returns path of a leaf -> start and end of its bytes."""
    leaves: dict[str, tuple[int, int]] = {}
    with path.open("rb") as file, path.open("rb") as ahead:
        unpacker = msgpack.Unpacker(file, read_size=1 << 20, max_buffer_size=0)

        def entries(start: int) -> int | None:
            """Reads a map's header and returns the number of its entries; reads nothing and returns None elsewhere."""
            ahead.seek(start)
            kind = ahead.read(1)
            if not kind:
                raise msgpack.OutOfData
            if not (0x80 <= kind[0] <= 0x8F or kind[0] in (0xDE, 0xDF)):
                return None
            return unpacker.read_map_header()

        def walk(prefix: str, depth: int) -> None:
            start = unpacker.tell()
            count = entries(start)
            if count is None:
                if not prefix:
                    raise ValueError("it is no map")
                unpacker.skip()
                leaves[prefix] = start, unpacker.tell()
                return
            if depth > _DEPTH:
                raise ValueError(f"more than {_DEPTH} levels")
            for _ in range(count):
                name = unpacker.unpack()
                if not isinstance(name, str):
                    raise ValueError(f"a key is {type(name).__name__}, not a string")
                if name == _CHUNKED:  # a large array in parts: what is left of this map is a part of the leaf
                    for _ in range(2 * (count - 1) + 1):
                        unpacker.skip()
                    leaves[prefix] = start, unpacker.tell()
                    return
                walk(f"{prefix}/{name}" if prefix else name, depth + 1)

        walk("", 0)
        if unpacker.tell() != path.stat().st_size:
            raise ValueError("there is more after its end")
    return leaves
