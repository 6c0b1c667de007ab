"""Weights by other people's names: one table a family, from which both directions follow.

A table's rule pairs a name template of theirs with one or more parameters of ours and a transform between the arrays.
`{layer}` in a template stands for the layer's number; ours then is stacked, [layers, ...]. Everything is strict: what
is missing, left over or of another shape is refused by name.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from transformer.errors import UserError
from transformer.interop.transforms import IDENTITY, Transform

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor of theirs (a layer) and the parameters of ours that it holds."""

    theirs: str
    """Name template, as in "h.{layer}.ln_1.weight"."""
    ours: tuple[str, ...]
    """Paths, as in "backbone/final_norm/scale"."""
    transform: Transform = IDENTITY
    """Between the arrays; one layer's, where the template has a layer."""

    @property
    def layered(self) -> bool:
        """Whether there is one tensor of theirs a layer."""
        return "{layer}" in self.theirs


@dataclasses.dataclass(frozen=True)
class Table:
    """How a family's weights are called elsewhere."""

    rules: tuple[Rule, ...]
    prefix: str = ""
    """Starts the names of the backbone where a head is saved with it; checkpoints of bare backbones lack it."""
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """A second name -> the first name of the same tensor: read if equal, never written."""
    constants: Mapping[str, Callable[[], np.ndarray]] = dataclasses.field(default_factory=dict)
    """Tensors of theirs that we compute (sinusoids) or leave out (zeros): refused if different, written when saved."""
    ignored: tuple[str, ...] = ()
    """Patterns of names that hold no weights: buffers."""
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Pattern of a part of an older name -> what the rules say in its place."""
    bare: bool = False
    """Whether the backbone is all there is: its names are then written without the prefix, and read either way."""


def load(table: Table, tensors: Mapping[str, np.ndarray], abstract_params: Any, *, leave: Collection[str] = ()) -> Any:
    """Returns our tree of float32 numpy parameters from their tensors.

    Args:
      table: the family's.
      tensors: by their names, any float dtype. Each is looked up when it is needed, once, so that the mapping may read
        from disk: memory stays near one copy.
      abstract_params: our tree of shapes, boxed or not, which the result has to fill exactly.
      leave: names of theirs that may be left over.

    Raises:
      UserError: missing or unexpected names, or a wrong shape.
    """
    shapes = _flat(abstract_params)
    names = _their_names(table, tensors)
    missing, unexpected = misfits(table, tensors, abstract_params)
    unexpected = [name for name in unexpected if name not in leave]
    problems = [f"missing {some(missing)}"] * bool(missing) + [f"unexpected {some(unexpected)}"] * bool(unexpected)
    if problems:
        raise UserError(f"the weights do not fit the architecture: {'; '.join(problems)}")
    for alias, name in table.aliases.items():
        if alias in names and not np.array_equal(tensors[names[alias]], tensors[names[name]]):
            raise UserError(f"tensor {alias!r} differs from {name!r}, to which the architecture ties it")
    for name, constant in table.constants.items():
        if name in names and not _same(np.asarray(tensors[names[name]]), constant()):
            raise UserError(f"tensor {name!r} is not the constant that the architecture has in its place")

    ours: dict[str, np.ndarray] = {}
    for rule in table.rules:
        layers = _layers(rule, shapes)
        one_layer = [shapes[path][1:] if layers else shapes[path] for path in rule.ours]
        for path in rule.ours:
            ours[path] = np.empty(shapes[path], np.float32)
        for layer, name in enumerate(_expand(rule, layers)):
            tensor = np.asarray(tensors[names[name]])
            shape = rule.transform.their_shape(one_layer)
            if tensor.shape != shape:
                raise UserError(f"tensor {name!r} has shape {tensor.shape}; the architecture needs {shape}")
            for path, part in zip(rule.ours, rule.transform.load(tensor, one_layer), strict=True):
                ours[path][layer if layers else ...] = part.astype(np.float32)
    unfilled = sorted(shapes.keys() - ours.keys())
    if unfilled:
        raise ValueError(f"the table has no rule for {some(unfilled)}")
    return unflatten_dict(ours, sep="/")


def stream(table: Table, params: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Gives their tensors, by name, from our tree of parameters, one at a time: the inverse of `load`."""
    ours = flatten_dict(nn.meta.unbox(params), sep="/")
    shapes = {path: tuple(leaf.shape) for path, leaf in ours.items()}  # type: ignore[union-attr]
    left = sorted(ours.keys() - {path for rule in table.rules for path in rule.ours})
    if left:
        raise ValueError(f"the table has no rule for {some(left)}")
    for rule in table.rules:
        layers = _layers(rule, shapes)
        parts = [np.asarray(ours[path]) for path in rule.ours]
        for layer, name in enumerate(_expand(rule, layers)):
            name = name.removeprefix(table.prefix) if table.bare else name
            yield name, np.ascontiguousarray(rule.transform.save([part[layer] if layers else part for part in parts]))
    for name, constant in table.constants.items():
        yield name, constant()


def save(table: Table, params: Any) -> dict[str, np.ndarray]:
    """Returns all that `stream` gives."""
    return dict(stream(table, params))


def misfits(table: Table, tensors: Iterable[str], abstract_params: Any) -> tuple[list[str], list[str]]:
    """Returns the full names that `load` would miss, and those of the given names that it would not know, sorted."""
    shapes = _flat(abstract_params)
    names = _their_names(table, tensors)
    wanted = {name for rule in table.rules for name in _expand(rule, _layers(rule, shapes))}
    known = wanted | table.aliases.keys() | table.constants.keys()
    return sorted(wanted - names.keys()), sorted(names[name] for name in names.keys() - known)


def expanded(rule: Rule, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Returns a rule's full names, of every layer; `shapes` are those of our parameters, by path."""
    return _expand(rule, _layers(rule, shapes))


def flat_shapes(abstract_params: Any) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape of our tree."""
    return _flat(abstract_params)


def _flat(abstract_params: Any) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape."""
    leaves = flatten_dict(nn.meta.unbox(abstract_params), sep="/")
    return {path: tuple(leaf.shape) for path, leaf in leaves.items()}  # type: ignore[union-attr]


def _layers(rule: Rule, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Returns how many tensors a layered rule stands for; 0 if it is not layered."""
    return shapes[rule.ours[0]][0] if rule.layered else 0


def _expand(rule: Rule, layers: int) -> list[str]:
    """Returns the rule's full names, in the order of layers."""
    return [rule.theirs.format(layer=layer) for layer in range(layers)] if rule.layered else [rule.theirs]


def _same(theirs: np.ndarray, ours: np.ndarray) -> bool:
    """Whether a constant is ours, up to the rounding of the dtype it was stored in."""
    rounding = {8: 1e-6, 4: 1e-6, 2: 1e-2}[theirs.dtype.itemsize]
    return theirs.shape == ours.shape and bool(np.allclose(theirs.astype(np.float32), ours, rtol=0, atol=rounding))


def _their_names(table: Table, tensors: Iterable[str]) -> dict[str, str]:
    """Returns full name -> name in `tensors`, without what holds no weights."""
    bare = table.prefix and not any(name.startswith(table.prefix) for name in tensors)
    plain = {*table.aliases, *table.constants}
    full = {f"{table.prefix}{name}" if bare and name not in plain else name: name for name in tensors}
    for pattern, new in table.renames.items():
        full = {re.sub(pattern, new, name): key for name, key in full.items()}
    return {name: key for name, key in full.items() if not any(re.fullmatch(p, name) for p in table.ignored)}


def some(names: Sequence[str]) -> str:
    """Returns the first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
