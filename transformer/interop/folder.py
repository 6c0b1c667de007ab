"""A folder in the Hugging Face format: reading its config.json, and writing all of it."""

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from transformer.checkpoint.files import check_new
from transformer.errors import UserError
from transformer.interop import flax_weights
from transformer.interop.files import check_fetched, read_json
from transformer.interop.weights import WEIGHTS

CONFIG = "config.json"

SHARD_BYTES = 2_000_000_000
"""Most bytes in a shard, unless one tensor is larger."""

_SMALL_FILES = (".json", ".jinja", ".model", ".spm", ".txt")
"""Endings of the files beside the weights: settings and tokenizers."""


def read_config(folder: Path) -> dict[str, Any]:
    """Returns config.json; raises UserError naming it, or another small file that git-lfs has not fetched."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    for path in sorted(folder.iterdir()):
        if path.suffix in _SMALL_FILES and path.is_file():
            check_fetched(path)
    return read_json(folder / CONFIG)


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Iterable[tuple[str, np.ndarray]],
    files: Mapping[str, bytes] | None = None,
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    flax: bool = False,
) -> None:
    """Writes a folder that Transformers loads.

    Args:
      folder: a new or empty folder.
      config: the content of config.json.
      tensors: (Transformers' name, weights), iterated once.
      files: further files, such as the tokenizer's, by name, with a slash for those of a subfolder.
      dtype: dtype of the weights on disk: float32, bfloat16 or float16. None: each tensor's own.
      shard_bytes: size above which weights go to several files with an index.
      flax: whether to write flax_model.msgpack; the names are then paths joined by "/".

    Raises:
      UserError: the folder is not empty, the dtype cannot hold a number, or the disk is full.
    """
    check_new(folder)
    with written(folder):
        _write(folder, tensors, dtype, shard_bytes, flax)
        for name, content in (files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        # Last, so that an unfinished folder, which lacks config.json, is no model.
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


@contextlib.contextmanager
def written(folder: Path) -> Iterator[None]:
    """A context in which a new folder is filled: it is made first, and where that fails nothing of it stays."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{folder}: could not be written: {error.strerror or error}") from error
        raise


def _write(
    folder: Path, tensors: Iterable[tuple[str, np.ndarray]], dtype: str | None, shard_bytes: int, flax: bool
) -> None:
    """Writes shards as they fill, so that one is in memory; their number, part of each name, is known last."""
    weights, save = (flax_weights.WEIGHTS, flax_weights.save) if flax else (WEIGHTS, _save)
    shards: list[list[str]] = []
    filling: dict[str, np.ndarray] = {}
    total = 0

    def flush() -> None:
        if filling:
            save(filling, folder / f"{len(shards)}.partial")
            shards.append(list(filling))
            filling.clear()

    for name, array in tensors:
        converted = np.asarray(array if dtype is None else _cast(name, array, dtype), order="C")
        if sum(held.nbytes for held in filling.values()) + converted.nbytes > shard_bytes:
            flush()
        filling[name] = converted
        total += converted.nbytes
    flush()
    names = [weights] if len(shards) == 1 else _shard_names(weights, len(shards))
    for number, name in enumerate(names):
        (folder / f"{number}.partial").rename(folder / name)
    if len(shards) > 1:
        where = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / f"{weights}.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _cast(name: str, array: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # reported below
        converted = array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype, copy=False)
    if np.any(np.isfinite(array) & ~np.isfinite(converted)):
        raise UserError(f"tensor {name!r} has numbers that {dtype} cannot hold: give another --dtype")
    return converted


def _save(arrays: dict[str, np.ndarray], path: Path) -> None:
    from safetensors.numpy import save_file

    try:
        save_file(arrays, path, metadata={"format": "pt"})
    except Exception as error:  # the library has its own exception for a full disk
        raise OSError(f"{path.name}: {error}") from error


def _shard_names(weights: str, count: int) -> list[str]:
    stem, kind = weights.rsplit(".", 1)
    return [f"{stem}-{number:05}-of-{count:05}.{kind}" for number in range(1, count + 1)]
