"""Reading a folder's weights: safetensors, one file or shards with an index; Flax's; or a pickle on request."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from transformer.errors import UserError
from transformer.interop import flax_weights, pickles
from transformer.interop.files import read_weight_map, shard_path
from transformer.interop.flax_names import torch_names
from transformer.interop.lazy import LazyArrays
from transformer.interop.wrappers import unwrapped

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@contextlib.contextmanager
def open_tensors(folder: Path, *, pickle: bool = False) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields the weights of a folder, by name; each is read when it is looked up.

    Of several files of weights the one that Transformers reads is read: model.safetensors, before shards with an
    index. Names lack the prefixes of trainers' wrappers.

    Args:
      folder: a folder in the Hugging Face format.
      pickle: whether to read PyTorch's pickle file instead, with weights-only loading, which executes nothing but needs
        PyTorch.

    Raises:
      UserError: no weights, a missing or truncated file, an index that does not fit, a tensor in two shards.
    """
    if pickle:
        yield unwrapped(pickles.read(folder))
    elif (folder / WEIGHTS).exists() or (folder / INDEX).exists():
        with _open_safetensors(folder) as tensors:
            yield tensors
    elif (folder / flax_weights.WEIGHTS).exists() or (folder / flax_weights.INDEX).exists():
        with flax_weights.open_arrays(folder) as arrays:
            yield torch_names(arrays)
    elif (folder / pickles.WEIGHTS).exists() or (folder / pickles.INDEX).exists():
        raise UserError(
            f"{folder} holds its weights as a pickle alone ({pickles.WEIGHTS}), which can execute code: if you trust "
            "where it comes from, ask for it by name with --pickle (read with PyTorch's weights-only loading)"
        )
    else:
        raise UserError(f"{folder}: no weights ({WEIGHTS}, or shards with {INDEX})")


@contextlib.contextmanager
def _open_safetensors(folder: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields the tensors of a folder's safetensors, from one file or from the shards that the index names."""
    weight_map = {} if (folder / WEIGHTS).exists() else read_weight_map(folder / INDEX)
    with contextlib.ExitStack() as stack:
        names = sorted(set(weight_map.values())) or [WEIGHTS]
        files = {name: stack.enter_context(_open_file(shard_path(folder / INDEX, name))) for name in names}
        shards: dict[str, str] = {}
        for shard, file in files.items():
            for name in file.keys():  # noqa: SIM118 - the library's files are no mappings
                if name in shards:
                    raise UserError(f"{folder / shards[name]} and {folder / shard} both hold tensor {name!r}")
                shards[name] = shard
        for name, shard in weight_map.items():
            if shards.get(name) != shard:
                raise UserError(f"{folder / shard} lacks tensor {name!r}, which {INDEX} says it holds")

        def read(name: str) -> np.ndarray:
            file = files[shards[name]]
            try:
                return file.get_tensor(name)
            except (AttributeError, TypeError) as error:  # NumPy has no such dtype
                kind = file.get_slice(name).get_dtype()
                raise UserError(
                    f"tensor {name!r} of {shards[name]} is {kind}: quantised weights are not supported; save them as "
                    "float32, float16 or bfloat16"
                ) from error

        if any((file.metadata() or {}).get("format") == "flax" for file in files.values()):
            yield torch_names(LazyArrays({name.replace(".", "/"): name for name in shards}, read))
        else:
            yield unwrapped(LazyArrays({name: name for name in shards}, read))


@contextlib.contextmanager
def _open_file(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file: {error}") from error
    with file as opened:
        yield opened
