"""The engine: weights under another library's names, by one table a family, from which both directions follow.

A table's rule pairs a name template of theirs with one or more parameters of ours and a transform between the arrays.
`{layer}` in a template stands for the layer's number; ours then is stacked, [layers, ...]. `{expert}` stands for the
number of an expert in its layer, and ours is [layers, experts, ...]. Everything is strict: what is missing, left over
or of another shape is refused by name.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import ml_dtypes
import numpy as np

from transformer.errors import UserError
from transformer.interop.transforms import IDENTITY, Transform
from transformer.params import flatten, unflatten

_SHOWN = 5
FLOATS = ("float32", "bfloat16", "float16", "float64")
"""Dtypes that weights may be in."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """A tensor of theirs (one for each layer, or for each expert of each layer) and the parameters that it holds."""

    theirs: str
    """Name template, as in "h.{layer}.ln_1.weight"."""
    ours: tuple[str, ...]
    """Paths, as in "backbone/final_norm/scale"."""
    transform: Transform = IDENTITY
    """Transform between the arrays, those of one layer or expert where the template has one."""
    layers: range | None = None
    """The numbers of the layers that ours holds, where layers of other kinds lie between or before them; None: those
    from 0 on."""

    @property
    def stacking(self) -> int:
        """The number of our first axes along which their tensors are stacked: layers, and experts."""
        return ("{layer}" in self.theirs) + ("{expert}" in self.theirs)

    def tensors(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Returns full name -> the index of its tensor in our stacked parameters, in their order.

        Args:
          shapes: those of our parameters, by path.
        """
        stacked = shapes[self.ours[0]][: self.stacking]
        layers = range(stacked[0] if stacked else 1) if self.layers is None else self.layers
        experts = range(stacked[1] if self.stacking > 1 else 1)
        numbers = itertools.product(layers, experts)
        names = [self.theirs.format(layer=layer, expert=expert) for layer, expert in numbers]
        return dict(zip(names, np.ndindex(stacked), strict=True))


@dataclasses.dataclass(frozen=True)
class Table:
    """The names of a family's weights in Transformers, and how they map to ours."""

    rules: tuple[Rule, ...]
    prefix: str = ""
    """Prefix of the backbone's names where a head is saved with it; checkpoints of bare backbones lack it."""
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """A second name -> the first name of the same tensor: read if equal or alone, never written."""
    twins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """A tensor -> another one: where a file has only one of them it stands for both; the first is written if they
    differ."""
    defaults: Mapping[str, Callable[[], np.ndarray]] = dataclasses.field(default_factory=dict)
    """Tensors of the rules that a file may leave out -> Transformers' default for them."""
    constants: Mapping[str, Callable[[], np.ndarray]] = dataclasses.field(default_factory=dict)
    """Tensors of theirs that we compute (sinusoids) or leave out (zeros): refused if different, written when saved."""
    ignored: tuple[str, ...] = ()
    """Patterns of names that hold no weights: buffers."""
    renames: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Pattern of a part of an older name -> the rules' name for it."""
    bare: bool = False
    """Whether there is only the backbone: its names are then written without the prefix, and read either way."""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The content of a file of weights."""

    params: Any
    """Our tree, float32 numpy arrays."""
    dtypes: dict[str, Any]
    """Names of the dtypes of parameters, by path, and of constants, by name: one, or a list over layers (and
    experts)."""


class Written(NamedTuple):
    """A tensor of theirs to write."""

    name: str
    array: np.ndarray
    rule: Rule | None
    """The rule that it follows; None: it is a constant."""


def load(
    table: Table, tensors: Mapping[str, np.ndarray], abstract_params: Any, *, leave: Collection[str] = ()
) -> Loaded:
    """Returns our parameters from their tensors, and the dtypes that these were in.

    Args:
      table: the family's table.
      tensors: their tensors by name, in any float dtype. Each is looked up once, when it is needed, so that the mapping
        may read from disk: memory stays near one copy.
      abstract_params: our tree of shapes, boxed or not, which the result has to fill exactly.
      leave: names of theirs that may be left over.

    Raises:
      UserError: missing or unexpected names, a wrong shape, or numbers that float32 does not hold.
    """
    shapes = _shapes(abstract_params)
    names = _their_names(table, tensors)
    missing, unexpected = misfits(table, tensors, abstract_params)
    unexpected = [name for name in unexpected if name not in leave]
    problems = [f"missing {some(missing)}"] * bool(missing) + [f"unexpected {some(unexpected)}"] * bool(unexpected)
    if problems:
        raise UserError(f"the weights do not fit the architecture: {'; '.join(problems)}")
    for alias, name in table.aliases.items():
        same = alias not in names or names[alias] == names[name]
        if not same and not np.array_equal(tensors[names[alias]], tensors[names[name]]):
            raise UserError(f"tensor {alias!r} differs from {name!r}, to which the architecture ties it")
    dtypes: dict[str, Any] = {}
    for name in table.constants:
        if name in names:
            dtypes[name] = _check_constant(table, name, tensors[names[name]])

    ours: dict[str, np.ndarray] = {}
    for rule in table.rules:
        parts = [shapes[path][rule.stacking :] for path in rule.ours]
        for path in rule.ours:
            ours[path] = np.empty(shapes[path], np.float32)
        stored = []
        for name, index in rule.tensors(shapes).items():
            tensor = np.asarray(tensors[names[name]] if name in names else table.defaults[name]())
            shape = rule.transform.their_shape(parts)
            if tensor.shape != shape:
                raise UserError(f"tensor {name!r} has shape {tensor.shape}; the architecture needs {shape}")
            stored.append(tensor.dtype.name)
            tensor = _float32(name, tensor)
            for path, part in zip(rule.ours, rule.transform.load(tensor, parts), strict=True):
                ours[path][index] = part
        dtypes |= dict.fromkeys(rule.ours, stored[0] if len(set(stored)) == 1 else stored)
    unfilled = sorted(shapes.keys() - ours.keys())
    if unfilled:
        raise ValueError(f"the table has no rule for {some(unfilled)}")
    return Loaded(unflatten(ours), dtypes)


def stream(table: Table, params: Any, dtypes: Mapping[str, Any] = MappingProxyType({})) -> Iterator[Written]:
    """Yields their tensors from our tree of parameters, one at a time: the inverse of `load`.

    Args:
      table: the family's table.
      params: our tree.
      dtypes: as `load` returned them; float32 for parameters without one.
    """
    ours = flatten(nn.meta.unbox(params))
    shapes = _shapes(params)
    left = sorted(ours.keys() - {path for rule in table.rules for path in rule.ours})
    if left:
        raise ValueError(f"the table has no rule for {some(left)}")
    held = {rule.theirs: rule.ours[0] for rule in table.rules}
    for rule in table.rules:
        if rule.theirs in table.twins and np.array_equal(ours[rule.ours[0]], ours[held[table.twins[rule.theirs]]]):
            continue
        parts = [np.asarray(ours[path]) for path in rule.ours]
        stored = dtypes.get(rule.ours[0], "float32")
        for number, (name, index) in enumerate(rule.tensors(shapes).items()):
            name = name.removeprefix(table.prefix) if table.bare else name
            tensor = rule.transform.save([part[index] for part in parts])
            dtype = stored if isinstance(stored, str) else stored[number]
            yield Written(name, np.asarray(tensor.astype(np.dtype(dtype), copy=False), order="C"), rule)
    for name, constant in table.constants.items():
        yield Written(name, constant().astype(np.dtype(dtypes.get(name, "float32")), copy=False), None)


def misfits(table: Table, tensors: Iterable[str], abstract_params: Any) -> tuple[list[str], list[str]]:
    """Returns the full names that `load` would miss, and the given names that it would not know, both sorted."""
    shapes = _shapes(abstract_params)
    names = _their_names(table, tensors)
    wanted = {name for rule in table.rules for name in rule.tensors(shapes)}
    known = wanted | table.aliases.keys() | table.constants.keys()
    return sorted(wanted - names.keys() - table.defaults.keys()), sorted(names[name] for name in names.keys() - known)


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    """Returns path -> shape of a tree of parameters, boxed or not."""
    return {path: tuple(leaf.shape) for path, leaf in flatten(nn.meta.unbox(params)).items()}


def _check_constant(table: Table, name: str, theirs: np.ndarray) -> str:
    """Returns the name of a constant's dtype; raises UserError if it is not ours, up to rounding."""
    ours, theirs = table.constants[name](), np.asarray(theirs)
    if theirs.dtype.name not in FLOATS:
        raise UserError(_not_a_float(name, theirs))
    # Half of the distance between neighbours, and the error of float32 sums.
    near = np.abs(ours) * (float(ml_dtypes.finfo(theirs.dtype).eps) / 2) + 1e-6
    if theirs.shape != ours.shape or not np.all(np.abs(theirs.astype(np.float64) - ours) <= near):
        raise UserError(f"tensor {name!r} is not the constant that the architecture has in its place")
    return theirs.dtype.name


def _float32(name: str, tensor: np.ndarray) -> np.ndarray:
    """Returns a tensor as float32; raises UserError where that would round a number."""
    if tensor.dtype.name not in FLOATS:
        raise UserError(_not_a_float(name, tensor))
    with np.errstate(over="ignore"):  # reported below
        narrow = tensor.astype(np.float32, copy=False)
    if tensor.dtype.itemsize > narrow.dtype.itemsize and not np.array_equal(narrow, tensor, equal_nan=True):
        raise UserError(
            f"tensor {name!r} is {tensor.dtype.name}, with numbers that float32, which weights are held in here, would "
            "round: save it as float32"
        )
    return narrow


def _not_a_float(name: str, tensor: np.ndarray) -> str:
    return f"tensor {name!r} is of {tensor.dtype.name}: weights are {', '.join(FLOATS)}"


def _their_names(table: Table, tensors: Iterable[str]) -> dict[str, str]:
    """Returns full name -> name in `tensors`, without names that hold no weights."""
    bare = table.prefix and not any(name.startswith(table.prefix) for name in tensors)
    plain = {*table.aliases, *table.constants, *(rule.theirs for rule in table.rules)}
    full = {f"{table.prefix}{name}" if bare and name not in plain else name: name for name in tensors}
    for pattern, new in table.renames.items():
        full = {re.sub(pattern, new, name): key for name, key in full.items()}
    names = {name: key for name, key in full.items() if not any(re.fullmatch(p, name) for p in table.ignored)}
    for other, name in table.aliases.items():
        if other in names:
            names.setdefault(name, names[other])
    for other, name in table.twins.items():
        if other in names or name in names:
            names.setdefault(name, names.get(other, ""))
            names.setdefault(other, names[name])
    return names


def some(names: Sequence[str]) -> str:
    """Returns the first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
