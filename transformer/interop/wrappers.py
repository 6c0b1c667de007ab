"""Names that the wrappers of PyTorch's trainers leave in saved weights: taken off, wherever they are whole."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from transformer.errors import UserError

_ANYWHERE = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Of torch.compile, FSDP and activation checkpointing, around any module."""
_ALL_BEGIN = "module."
"""Of DataParallel and DistributedDataParallel, around the whole model: also an ordinary name, so all must have it."""


class _Renamed(Mapping[str, np.ndarray]):
    """Tensors by other names; each is still read when it is looked up."""

    def __init__(self, tensors: Mapping[str, np.ndarray], names: Mapping[str, str]):
        self._tensors, self._names = tensors, names

    def __getitem__(self, name: str) -> np.ndarray:
        return self._tensors[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def unwrapped(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Returns tensors by the names that the model itself gives them.

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
    return _Renamed(tensors, names)
