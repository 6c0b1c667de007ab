"""Removing the prefixes that the wrappers of PyTorch's trainers leave in the names of saved weights."""

import re
from collections.abc import Mapping

import numpy as np

from transformer.errors import UserError
from transformer.interop.lazy import LazyArrays

_ANYWHERE = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Names that torch.compile, FSDP and activation checkpointing put around any module."""
_ALL_BEGIN = "module."
"""Name that DataParallel and DistributedDataParallel put around the whole model: all names must have it."""


def unwrapped(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Returns the tensors by the names that the model itself gives them.

    Raises:
      UserError: two tensors would have one name.
    """
    plain = {name: _ANYWHERE.sub("", name) for name in tensors}
    while plain and all(name.startswith(_ALL_BEGIN) for name in plain.values()):
        plain = {name: short.removeprefix(_ALL_BEGIN) for name, short in plain.items()}
    if all(name == short for name, short in plain.items()):
        return tensors
    names: dict[str, str] = {}
    for name, short in plain.items():
        if short in names:
            raise UserError(f"tensors {names[short]!r} and {name!r} are both {short!r}, without a trainer's wrappers")
        names[short] = name
    return LazyArrays(names, tensors.__getitem__)
