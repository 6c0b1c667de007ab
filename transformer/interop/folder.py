"""A folder in the Hugging Face format: config.json; safetensors, one file or shards with an index; tokenizer files."""

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from transformer.checkpoint.files import check_new
from transformer.errors import UserError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"

SHARD_BYTES = 2_000_000_000
"""A shard holds at most so many bytes, unless one tensor is larger."""


class Tensors(Mapping[str, np.ndarray]):
    """The tensors of several safetensors files, each read from disk when it is asked for."""

    def __init__(self, files: Mapping[str, Any], shards: Mapping[str, str]):
        self._files, self._shards = files, shards

    def __getitem__(self, name: str) -> np.ndarray:
        return self._files[self._shards[name]].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shards)

    def __len__(self) -> int:
        return len(self._shards)


def read_config(folder: Path) -> dict[str, Any]:
    """Returns config.json; raises UserError naming the file."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return read_json(folder / CONFIG)


@contextlib.contextmanager
def open_tensors(folder: Path, *, pickle: bool = False) -> Iterator[Mapping[str, np.ndarray]]:
    """Gives the weights of a folder, by name; each is read when it is looked up.

    Args:
      folder: in the Hugging Face format.
      pickle: read PyTorch's pickle file instead, with weights-only loading, which executes nothing but needs PyTorch.

    Raises:
      UserError: no weights, a missing or truncated file, an index that does not fit.
    """
    if pickle:
        yield _unpickled(folder)
        return
    if (folder / INDEX).exists():
        shards = read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise UserError(f"{folder / INDEX}: no weight_map of names to files")
    elif (folder / WEIGHTS).exists():
        shards = None
    elif (folder / PICKLE).exists() or (folder / PICKLE_INDEX).exists():
        raise UserError(
            f"{folder} holds its weights as a pickle alone ({PICKLE}), which can execute code: if you trust where it "
            "comes from, ask for it by name with --pickle (read with PyTorch's weights-only loading)"
        )
    else:
        raise UserError(f"{folder}: no weights ({WEIGHTS}, or shards with {INDEX})")
    with contextlib.ExitStack() as stack:
        names = {WEIGHTS} if shards is None else set(shards.values())
        files = {name: stack.enter_context(_open(folder, name)) for name in sorted(names)}
        if shards is None:
            shards = dict.fromkeys(files[WEIGHTS].keys(), WEIGHTS)
        held = {name: set(file.keys()) for name, file in files.items()}
        for name, shard in shards.items():
            if name not in held[shard]:
                raise UserError(f"{folder / shard} lacks tensor {name!r}, which {INDEX} says it holds")
        yield Tensors(files, shards)


def write_folder(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Iterable[tuple[str, np.ndarray]],
    files: Mapping[str, bytes] | None = None,
    *,
    dtype: str = "float32",
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a folder that Transformers loads.

    Args:
      folder: new or empty.
      config: config.json.
      tensors: (Transformers' name, weights), each asked for once.
      files: further files, of the tokenizer, by name.
      dtype: float32, bfloat16 or float16, of the weights on disk.
      shard_bytes: more than this goes to several files with an index.

    Raises:
      UserError: the folder is not empty, or the disk is full.
    """
    check_new(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, tensors, dtype, shard_bytes)
        for name, content in (files or {}).items():
            (folder / name).write_bytes(content)
        # Last: a folder without config.json is no model, so that one cut short is not taken for whole.
        (folder / CONFIG).write_text(json.dumps({**config, "dtype": dtype}, indent=2) + "\n")
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)  # it was new: nothing half-written stays
        if isinstance(error, OSError):
            raise UserError(f"{folder}: could not be written: {error.strerror or error}") from error
        raise


def _write(folder: Path, tensors: Iterable[tuple[str, np.ndarray]], dtype: str, shard_bytes: int) -> None:
    """Writes shards as they fill: no more than one is in memory, and their number, part of each name, is known last."""
    import ml_dtypes

    target = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    shards: list[list[str]] = []
    filling: dict[str, np.ndarray] = {}
    total = 0

    def flush() -> None:
        if filling:
            _save(filling, folder / f"{len(shards)}.partial")
            shards.append(list(filling))
            filling.clear()

    for name, array in tensors:
        converted = np.ascontiguousarray(array.astype(target, copy=False))
        if sum(held.nbytes for held in filling.values()) + converted.nbytes > shard_bytes:
            flush()
        filling[name] = converted
        total += converted.nbytes
    flush()
    names = [WEIGHTS] if len(shards) == 1 else _shard_names(len(shards))
    for number, name in enumerate(names):
        (folder / f"{number}.partial").rename(folder / name)
    if len(shards) > 1:
        where = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _save(arrays: dict[str, np.ndarray], path: Path) -> None:
    from safetensors.numpy import save_file

    try:
        save_file(arrays, path, metadata={"format": "pt"})
    except Exception as error:  # the library raises one of its own for a full disk
        raise OSError(f"{path.name}: {error}") from error


def _shard_names(count: int) -> list[str]:
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


@contextlib.contextmanager
def _open(folder: Path, name: str) -> Iterator[Any]:
    """Opens one safetensors file, which must lie in the folder itself."""
    from safetensors import SafetensorError, safe_open

    path = folder / name
    if Path(name).name != name:
        raise UserError(f"{folder / INDEX} names a file outside of its folder: {name!r}")
    if not path.exists():
        raise UserError(f"{path}: no such file: a shard is missing")
    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file: {error}") from error
    with file as opened:
        yield opened


def _unpickled(folder: Path) -> dict[str, np.ndarray]:
    """Reads PyTorch's pickle files with weights-only loading, all into memory."""
    try:
        import torch
    except ImportError as error:
        raise UserError("reading a pickle needs PyTorch: pip install torch") from error
    if (folder / PICKLE_INDEX).exists():
        names = sorted(set(read_json(folder / PICKLE_INDEX)["weight_map"].values()))
    else:
        names = [PICKLE]
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        if Path(name).name != name or not (folder / name).exists():
            raise UserError(f"{folder / name}: no such file")
        try:
            state = torch.load(folder / name, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged or hostile pickle makes of it
            raise UserError(f"{folder / name}: refused by weights-only loading: {_first_line(error)}") from error
        for key, tensor in state.items():
            # NumPy has no bfloat16 of its own; float32 holds every value of it.
            tensors[key] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return tensors


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """Returns a file's JSON object; raises UserError naming the file where there is none."""
    path = epath.Path(path)
    try:
        record = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: not a JSON object")
    return record
