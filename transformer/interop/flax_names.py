"""Names of the weights in Transformers 4's Flax classes: PyTorch's names, except for the last part.

The modules' names are the same on both sides, so one rule serves every family: a PyTorch `weight` is a `kernel`
(transposed, of a GPT-2's Conv1D as of a Linear), an `embedding` or a norm's `scale`, as the parameter of ours that the
family's table pairs it with is called. All other parts stay, joined by "/" instead of ".".
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, get_args

import numpy as np

from transformer.interop import engine
from transformer.interop.engine import Table
from transformer.interop.lazy import LazyArrays
from transformer.models.encoder import EncoderHead
from transformer.params import name_of

ENCODER_HEADS = get_args(EncoderHead)
"""Heads of encoders that had a Flax class, which is all of them."""

_WEIGHTS = ("kernel", "embedding", "scale")


@dataclasses.dataclass(frozen=True)
class FlaxClasses:
    """A family's Flax classes in Transformers 4, beside its table."""

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


def torch_names(arrays: Mapping[str, np.ndarray]) -> LazyArrays:
    """Returns Flax's arrays, given by their paths joined by "/", under PyTorch's names; each is read when looked up."""
    paths = {_torch_name(path): path for path in arrays}
    # A masked language model's own decoder has no bias in Flax: the head's is the one that is added.
    for name, path in list(paths.items()):
        head = path.removesuffix("/decoder/kernel")
        if head != path and f"{head}/bias" in arrays:
            paths.setdefault(name.removesuffix("weight") + "bias", f"{head}/bias")

    def read(path: str) -> np.ndarray:
        array = arrays[path]
        return np.moveaxis(array, (-1, -2), (0, 1)) if name_of(path) == "kernel" else array

    return LazyArrays(paths, read)


def stream(
    table: Table, classes: FlaxClasses, params: Any, dtypes: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields Flax's paths and arrays from our tree of parameters, one at a time.

    Args:
      table: the table of the architecture.
      classes: the family's Flax classes.
      params: our tree.
      dtypes: as `engine.load` returned them.
    """
    table = dataclasses.replace(table, twins={})  # Flax's classes tie nothing by equality
    copies = {} if classes.ties else {first: alias for alias, first in table.aliases.items()}
    for name, array, rule in engine.stream(table, params, dtypes):
        if rule is None and name not in classes.constants:
            continue
        leaf = name_of(rule.ours[0]) if rule else ""
        leaf = "embedding" if leaf == "sinusoids" else leaf  # a table in Flax, though nothing trains it
        turned = _flax_kernel(array) if leaf == "kernel" else array
        yield _flax_path(name, classes.scale if leaf == "scale" else leaf), turned
        if name in copies:
            yield _flax_path(copies[name], "kernel"), _flax_kernel(array)


def _flax_kernel(kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel with its axes in Flax's order: [inputs, outputs], where PyTorch's Linear has the other.

    A convolution is [places, inputs, outputs] there and [outputs, inputs, places] in PyTorch; its places may have
    several axes.
    """
    return np.moveaxis(kernel, (0, 1), (-1, -2))


def _torch_name(path: str) -> str:
    *modules, leaf = path.split("/")
    return ".".join([*modules, "weight" if leaf in _WEIGHTS else leaf])


def _flax_path(name: str, leaf: str) -> str:
    if name.endswith(".decoder.bias"):  # the inverse of torch_names
        name = name.removesuffix(".decoder.bias") + ".bias"
    if name.endswith(".weight"):
        name = name.removesuffix("weight") + leaf
    return name.replace(".", "/")
