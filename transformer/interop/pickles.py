"""PyTorch's pickles of weights: a state_dict, by itself or inside a training checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from transformer.errors import UserError
from transformer.interop.files import read_weight_map, shard_path
from transformer.interop.lazy import LazyArrays

_INSIDE = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which training checkpoints hold their weights."""


WEIGHTS = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"


def read(folder: Path) -> LazyArrays:
    """Reads a folder's pickles with PyTorch's weights-only loading, which executes nothing, all into memory.

    Raises:
      UserError: no PyTorch, no such file, no tensors by name, or one name in two files.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError("reading a pickle needs PyTorch: pip install torch") from error
    tensors: dict[str, Any] = {}
    files: dict[str, str] = {}
    names = [WEIGHTS] if (folder / WEIGHTS).exists() else sorted(set(read_weight_map(folder / INDEX).values()))
    for name in names:
        path = shard_path(folder / INDEX, name)
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged or hostile pickle makes of it
            raise UserError(f"{path}: refused by weights-only loading: {_first_line(error)}") from error
        for key, tensor in _named_tensors(loaded, str(path)).items():
            if key in tensors:
                raise UserError(f"{path} and {folder / files[key]} both hold tensor {key!r}")
            tensors[key], files[key] = tensor, name
    return LazyArrays({name: (name, tensor) for name, tensor in tensors.items()}, lambda place: _to_numpy(*place))


def _to_numpy(name: str, tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach()
    try:
        if tensor.dtype == torch.bfloat16:  # NumPy has none of its own
            return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    except (TypeError, RuntimeError) as error:  # float8, quantised, sparse, on no device
        what = f"{str(tensor.dtype).removeprefix('torch.')} ({tensor.layout}, on {tensor.device})"
        raise UserError(f"tensor {name!r} is {what}: save plain float32, float16 or bfloat16 weights") from error


def _named_tensors(loaded: Any, where: str) -> Mapping[str, Any]:
    """Returns the tensors by name in a pickle, at its top or under the one key of a training checkpoint."""
    import torch

    if not isinstance(loaded, Mapping):
        raise UserError(f"{where} holds a {type(loaded).__name__}, not tensors by name: save model.state_dict()")
    if not loaded:
        raise UserError(f"{where} holds no tensors")
    others = [key for key, value in loaded.items() if not (isinstance(key, str) and isinstance(value, torch.Tensor))]
    if not others:
        return loaded
    inside = [key for key in _INSIDE if isinstance(loaded.get(key), Mapping)]
    if len(inside) == 1:
        return _named_tensors(loaded[inside[0]], f"{where}: {inside[0]!r}")
    if inside:
        raise UserError(f"{where} holds weights in {' and in '.join(map(repr, inside))}: save one of them alone")
    kind = type(loaded[others[0]]).__name__
    raise UserError(
        f"{where}: {others[0]!r} is a {kind}, not a tensor, and there is no {', '.join(_INSIDE)} of tensors by name"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
