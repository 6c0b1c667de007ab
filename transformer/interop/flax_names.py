"""What Transformers 4's Flax classes call the weights: PyTorch's names, but for the last part.

The modules' names are the same on both sides, so one rule serves every family: a PyTorch `weight` is a `kernel`
(transposed, of a GPT-2's Conv1D as of a Linear), an `embedding` or a norm's `scale`, as the parameter of ours that the
family's table pairs it with is called. All other parts stay, joined by "/" instead of ".".
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, get_args

import numpy as np

from transformer.interop.engine import Table, expanded
from transformer.models.encoder import EncoderHead

ENCODER_HEADS = get_args(EncoderHead)
"""Heads of encoders that had a Flax class: all."""

_WEIGHTS = ("kernel", "embedding", "scale")


@dataclasses.dataclass(frozen=True)
class FlaxClasses:
    """What a family had in Flax, beside its table."""

    heads: Collection[str]
    """Our heads that had a class."""
    scale: str = "scale"
    """The name of a norm's only parameter: "weight" where the family has a root-mean-square norm of its own."""
    ties: bool = True
    """Whether the head shares the embedding; if not, a tied head is written as a second array."""
    constants: Collection[str] = ()
    """Constants of the table that are parameters in Flax."""
    refusal: Callable[[Any], str] = lambda config: ""
    """An architecture -> why the Flax classes would compute other numbers; empty: they do not."""


class TorchNames(Mapping[str, np.ndarray]):
    """Flax's arrays under PyTorch's names; each is read when it is looked up."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        """Takes arrays by their paths, joined by "/"."""
        self._arrays = arrays
        self._paths = {_torch_name(path): path for path in arrays}
        # A masked language model's own decoder has no bias in Flax: the head's is the one that is added.
        for name, path in list(self._paths.items()):
            head = path.removesuffix("/decoder/kernel")
            if head != path and f"{head}/bias" in arrays:
                self._paths.setdefault(name.removesuffix("weight") + "bias", f"{head}/bias")

    def __getitem__(self, name: str) -> np.ndarray:
        path = self._paths[name]
        array = self._arrays[path]
        return array.T if _is_kernel(path) and array.ndim == 2 else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def to_flax(
    table: Table, classes: FlaxClasses, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Gives Flax's paths and arrays from PyTorch's names and arrays, one at a time.

    Args:
      table: the family's, of the architecture.
      classes: the family's in Flax.
      shapes: of our parameters, by path.
      tensors: as `engine.stream` gives them.
    """
    leaves = {name: rule.ours[0].rpartition("/")[2] for rule in table.rules for name in expanded(rule, shapes)}
    prefix = table.prefix if table.bare else ""
    leaves |= {name.removeprefix(prefix): leaf for name, leaf in leaves.items()}
    copies = {} if classes.ties else {first: alias for alias, first in table.aliases.items()}
    for name, array in tensors:
        if name in table.constants and name not in classes.constants:
            continue
        leaf = leaves.get(name, "")
        yield _flax_path(name, classes.scale if leaf == "scale" else leaf), array.T if leaf == "kernel" else array
        if name in copies:
            yield _flax_path(copies[name], "kernel"), array.T


def _torch_name(path: str) -> str:
    *modules, leaf = path.split("/")
    return ".".join([*modules, "weight" if leaf in _WEIGHTS else leaf])


def _is_kernel(path: str) -> bool:
    return path.rpartition("/")[2] == "kernel"


def _flax_path(name: str, leaf: str) -> str:
    if name.endswith(".decoder.bias"):  # the other half of what TorchNames does
        name = name.removesuffix(".decoder.bias") + ".bias"
    if name.endswith(".weight"):
        name = name.removesuffix("weight") + leaf
    return name.replace(".", "/")
