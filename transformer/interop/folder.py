"""A folder in the Hugging Face format: config.json; safetensors, one file or shards with an index; tokenizer files."""

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from transformer.checkpoint.files import check_new
from transformer.errors import UserError
from transformer.interop import flax_weights
from transformer.interop.flax_names import TorchNames
from transformer.interop.lfs import check_fetched
from transformer.interop.pickles import unpickled
from transformer.interop.wrappers import unwrapped

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"

SHARD_BYTES = 2_000_000_000
"""A shard holds at most so many bytes, unless one tensor is larger."""


_SMALL_FILES = (".json", ".jinja", ".model", ".spm", ".txt")
"""Endings of what lies beside the weights: settings and tokenizers."""


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of several safetensors files, each read from disk when it is asked for."""

    def __init__(self, files: Mapping[str, Any], shards: Mapping[str, str], separator: str = "."):
        """Takes open files by name, the tensors' files, and what to give "." in the tensors' names as."""
        self._files, self._separator = files, separator
        self._shards = {name.replace(".", separator): shard for name, shard in shards.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        file = self._files[self._shards[name]]
        stored = name.replace(self._separator, ".")
        try:
            return file.get_tensor(stored)
        except (AttributeError, TypeError) as error:  # NumPy has no such dtype
            kind = file.get_slice(stored).get_dtype()
            raise UserError(
                f"tensor {name!r} of {self._shards[name]} is {kind}: quantised weights are not supported; save them as "
                "float32, float16 or bfloat16"
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)


def read_config(folder: Path) -> dict[str, Any]:
    """Returns config.json; raises UserError naming the file, or another small one that git-lfs has not fetched."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    for path in sorted(folder.iterdir()):
        if path.suffix in _SMALL_FILES and path.is_file():
            check_fetched(path)
    return read_json(folder / CONFIG)


@contextlib.contextmanager
def open_tensors(folder: Path, *, pickle: bool = False) -> Iterator[Mapping[str, np.ndarray]]:
    """Gives the weights of a folder, by name; each is read when it is looked up.

    Where a folder has several files of weights, the one that Transformers reads is read: model.safetensors, before
    shards with an index. Names are without the prefixes of trainers' wrappers.

    Args:
      folder: in the Hugging Face format.
      pickle: read PyTorch's pickle file instead, with weights-only loading, which executes nothing but needs PyTorch.

    Raises:
      UserError: no weights, a missing or truncated file, an index that does not fit, a tensor in two shards.
    """
    if pickle:
        names = _shards(folder / PICKLE_INDEX) if not (folder / PICKLE).exists() else [PICKLE]
        yield unwrapped(unpickled(folder, names))
        return
    if (folder / WEIGHTS).exists():
        names = [WEIGHTS]
    elif (folder / INDEX).exists():
        names = _shards(folder / INDEX)
    elif (folder / flax_weights.WEIGHTS).exists() or (folder / flax_weights.INDEX).exists():
        weight_map = None if (folder / flax_weights.WEIGHTS).exists() else _weight_map(folder / flax_weights.INDEX)
        with flax_weights.open_arrays(folder, weight_map) as arrays:
            yield TorchNames(arrays)
        return
    elif (folder / PICKLE).exists() or (folder / PICKLE_INDEX).exists():
        raise UserError(
            f"{folder} holds its weights as a pickle alone ({PICKLE}), which can execute code: if you trust where it "
            "comes from, ask for it by name with --pickle (read with PyTorch's weights-only loading)"
        )
    else:
        raise UserError(f"{folder}: no weights ({WEIGHTS}, or shards with {INDEX})")
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(_open(folder, name)) for name in names}
        shards: dict[str, str] = {}
        for file, opened in files.items():
            for name in opened.keys():  # noqa: SIM118 - the library's files are no mappings
                if name in shards:
                    raise UserError(f"{folder / shards[name]} and {folder / file} both hold tensor {name!r}")
                shards[name] = file
        for name, file in _weight_map(folder / INDEX).items() if names != [WEIGHTS] else ():
            if shards.get(name) != file:
                raise UserError(f"{folder / file} lacks tensor {name!r}, which {INDEX} says it holds")
        if any((file.metadata() or {}).get("format") == "flax" for file in files.values()):
            yield TorchNames(Tensors(files, shards, separator="/"))
        else:
            yield unwrapped(Tensors(files, shards))


def _weight_map(index: Path) -> dict[str, str]:
    """Returns an index's names and the files that hold them."""
    weight_map = read_json(index).get("weight_map")
    if not weight_map or not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise UserError(f"{index}: no weight_map of names to files")
    return weight_map


def _shards(index: Path) -> list[str]:
    """Returns the files that an index names, in order."""
    return sorted(set(_weight_map(index).values()))


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
      folder: new or empty.
      config: config.json.
      tensors: (Transformers' name, weights), each asked for once.
      files: further files, of the tokenizer, by name, with a slash for those of a subfolder.
      dtype: float32, bfloat16 or float16, of the weights on disk. None: each tensor's own.
      shard_bytes: more than this goes to several files with an index.
      flax: write flax_model.msgpack; the names are then paths joined by "/".

    Raises:
      UserError: the folder is not empty, the dtype cannot hold a number, or the disk is full.
    """
    check_new(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, tensors, dtype, shard_bytes, flax)
        for name, content in (files or {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        # Last: a folder without config.json is no model, so that one cut short is not taken for whole.
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)  # it was new: nothing half-written stays
        if isinstance(error, OSError):
            raise UserError(f"{folder}: could not be written: {error.strerror or error}") from error
        raise


def _write(
    folder: Path, tensors: Iterable[tuple[str, np.ndarray]], dtype: str | None, shard_bytes: int, flax: bool
) -> None:
    """Writes shards as they fill: no more than one is in memory, and their number, part of each name, is known last."""
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
        converted = np.ascontiguousarray(array if dtype is None else _cast(name, array, dtype))
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
    with np.errstate(over="ignore"):  # which is said below
        converted = array.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype, copy=False)
    if np.any(np.isfinite(array) & ~np.isfinite(converted)):
        raise UserError(f"tensor {name!r} has numbers that {dtype} cannot hold: give another --dtype")
    return converted


def _save(arrays: dict[str, np.ndarray], path: Path) -> None:
    from safetensors.numpy import save_file

    try:
        save_file(arrays, path, metadata={"format": "pt"})
    except Exception as error:  # the library raises one of its own for a full disk
        raise OSError(f"{path.name}: {error}") from error


def _shard_names(weights: str, count: int) -> list[str]:
    stem, kind = weights.rsplit(".", 1)
    return [f"{stem}-{number:05}-of-{count:05}.{kind}" for number in range(1, count + 1)]


@contextlib.contextmanager
def _open(folder: Path, name: str) -> Iterator[Any]:
    """Opens one safetensors file, which must lie in the folder itself."""
    from safetensors import SafetensorError, safe_open

    path = folder / name
    if Path(name).name != name:
        raise UserError(f"{folder / INDEX} names a file outside of its folder: {name!r}")
    if not path.exists():
        raise UserError(f"{path}: no such file: a shard is missing")
    check_fetched(path)
    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file: {error}") from error
    with file as opened:
        yield opened


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """Returns a file's JSON object; raises UserError naming the file where there is none."""
    path = epath.Path(path)
    check_fetched(path)
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: not a JSON object")
    return record
