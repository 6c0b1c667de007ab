"""Weights of one architecture for another: what is taken, what is made longer, what is new, what is left out."""

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Collection
from typing import Any, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models.architecture import Architecture
from transformer.params import Parameter, flatten, layer_axes, unflatten
from transformer.transfer.config import InitConfig
from transformer.transfer.extend import Extension, PositionRule, VocabularyRule, extend

_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Graft:
    """What becomes of every array, by its path, such as backbone/stack/layers/attention/query/kernel."""

    taken: list[str]
    """The target's, from the source's array of the same path and shape."""
    extended: dict[str, Extension]
    """The target's, from a shorter one of the same path."""
    new: list[str]
    """The target's that have nothing of the source's."""
    left: list[str]
    """The source's that the target has nothing of."""
    picked: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """The target's, from these layers of the source's array of the same path."""

    def only(self, paths: Collection[str]) -> "Graft":
        """Returns the fates of some of the target's arrays; nothing is said of the source's others."""
        return Graft(
            [path for path in self.taken if path in paths],
            {path: how for path, how in self.extended.items() if path in paths},
            [path for path in self.new if path in paths],
            [],
            {path: layers for path, layers in self.picked.items() if path in paths},
        )

    def assemble(self, have: dict[str, Any], initial: dict[str, Any]) -> dict[str, Any]:
        """Returns the target's tree, laid out as `initial` where it is not taken as it is.

        Args:
          have: path -> the source's array, of all that is taken, extended and picked.
          initial: path -> an initial array of the target's, of all that is extended, picked and new.
        """
        result = {path: have[path] for path in self.taken} | {path: initial[path] for path in self.new}
        for path, how in self.extended.items():
            longer = jax.jit(functools.partial(extend, how=how), out_shardings=initial[path].sharding)
            result[path] = longer(have[path], initial[path])
        for path, layers in self.picked.items():
            pick = functools.partial(jnp.take, indices=np.asarray(layers), axis=0)
            result[path] = jax.jit(pick, out_shardings=initial[path].sharding)(have[path])
        return unflatten(result)


def plan(source: Architecture, target: Architecture, init: InitConfig = InitConfig()) -> Graft:
    """Returns what becomes of the source's parameters in the target; reads none of them.

    Where `init` names leaves, all of this holds of those alone, and the others are new or left out. Its path is not
    read.

    Raises:
      UserError: an array of the backbone is missing, left over, or of another shape that no rule extends; nothing is
        taken; a rule has nothing to extend.
    """
    have, want = source.parameters, target.parameters
    chosen = _chosen(init.leaves, have, want)
    shifted = source.first_position != target.first_position
    taken: list[str] = []
    extended: dict[str, Extension] = {}
    picking = _picking(source, target, init)
    picked: dict[str, tuple[int, ...]] = {}
    for path in sorted(have.keys() & want.keys() & chosen):
        old, wanted = have[path], want[path]
        if shifted and "positions" in wanted.names:
            continue  # row 2 is one model's first position and the other's third
        if "label" in wanted.names and source.labels and target.labels and source.labels != target.labels:
            continue  # scores of other classes
        if (layers := _picked(old, wanted, picking)) is not None:
            picked[path] = layers
        elif old.shape == wanted.shape:
            taken.append(path)
        elif (how := _extension(old, wanted, init, target.first_position)) is not None:
            extended[path] = how
    new, left = (sorted(paths - {*taken, *extended, *picked}) for paths in (want.keys(), have.keys()))
    problems = [path for path in sorted({*new, *left} & chosen) if path.startswith("backbone/")]
    if problems:
        raise UserError(f"the weights' backbone is not the architecture's: {_differences(problems, source, target)}")
    if not taken and not extended and not picked:
        problems = sorted(have.keys() & want.keys() & chosen)
        raise UserError(f"no weights would be taken: {_differences(problems, source, target)}")
    _check_used("--init.vocabulary", init.vocabulary, ("vocab",), extended)
    _check_used("--init.positions", init.positions, ("positions", "grid"), extended)
    if picking and not picked:
        raise UserError("--init.layers has nothing to take of: no array that is taken lies in layers like these")
    return Graft(taken, extended, new, left, picked)


def graft(source: Architecture, target: Architecture, params: Any) -> tuple[Any, list[str], list[str]]:
    """Returns the target's parameters from the source's, in memory: its backbone, and of its head what fits.

    Returns:
      The tree, the paths of what is new, which is initialised here, and those of what was left out.

    Raises:
      UserError: the backbones differ.
    """
    fates = plan(source, target)
    return fates.assemble(flatten(params), _initial(target, fates.new) if fates.new else {}), fates.new, fates.left


def _chosen(pattern: str | None, have: dict[str, Any], want: dict[str, Any]) -> set[str]:
    """Returns the paths, of either side, that the pattern matches in full; at least one is on both."""
    if pattern is None:
        return {*have, *want}
    chosen = {path for path in (*have, *want) if re.fullmatch(pattern, path)}
    both = sorted(have.keys() & want.keys())
    if chosen.isdisjoint(both):
        nearest = difflib.get_close_matches(pattern, both, n=3, cutoff=0.0)
        raise UserError(
            f"--init.leaves {pattern!r} matches the whole path of no array that both have; the nearest: "
            f"{', '.join(nearest)}"
        )
    return chosen


def _differing_axis(old: Parameter, wanted: Parameter) -> tuple[str, int] | None:
    """Returns the name and the number of the one axis, of tokens, positions or layers, in which two arrays differ."""
    if old.names != wanted.names:
        return None
    sizes = enumerate(zip(old.shape, wanted.shape, strict=True))
    match [(axis, wanted.names[axis]) for axis, (before, now) in sizes if before != now]:
        case [(axis, "vocab" | "positions" | "grid" | "layers" as name)]:
            return name, axis
    return None


def _extension(old: Parameter, wanted: Parameter, init: InitConfig, first_position: int) -> Extension | None:
    """Returns how the array that is wanted is made from the old one; None: no rule makes it."""
    match _differing_axis(old, wanted):
        case "vocab", axis if init.vocabulary and old.shape[axis] < wanted.shape[axis]:
            return Extension("vocab", axis, init.vocabulary)
        case "positions", axis if init.positions and old.shape[axis] < wanted.shape[axis]:
            return Extension("positions", axis, init.positions, first_position)
        case "grid", axis if init.positions == "interpolate" and _before_grid(old) == _before_grid(wanted):
            return Extension("grid", axis, init.positions, _before_grid(old))
    return None


def _picking(source: Architecture, target: Architecture, init: InitConfig) -> dict[str, tuple[int, ...]]:
    """Returns module of a stack -> the layers of it that are picked.

    Raises:
      UserError: there is no such stack, or it has not so many layers, on either side.
    """
    stacks = list(target.stacks)
    two_sided = stacks == ["encoder", "decoder"]
    picking: dict[str, tuple[int, ...]] = {}
    for flag, layers, wanted in (
        ("--init.layers", init.layers, "encoder" if two_sided else "stack"),
        ("--init.decoder-layers", init.decoder_layers, "decoder"),
    ):
        if layers is None:
            continue
        if wanted not in target.stacks or wanted not in source.stacks:
            raise UserError(f"{flag}: {target.family} has the stacks {', '.join(stacks)}, and none to pick layers for")
        deep, own = source.stacks[wanted], target.stacks[wanted]
        if len(layers) != own or not all(0 <= layer < deep for layer in layers):
            raise UserError(f"{flag} {' '.join(map(str, layers))}: give {own} layers, each of 0 to {deep - 1}")
        picking[wanted] = layers
    return picking


def _picked(old: Parameter, wanted: Parameter, picking: dict[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """Returns the layers of the old array that the one that is wanted has; None: nothing is picked of it.

    What lies in a stack of groups of layers, or belongs to all layers, is no array of so many layers.
    """
    layers = next((picking[module] for module in wanted.modules[:2] if module in picking), None)
    if layers is None or old.names != wanted.names or layer_axes(wanted.names)[:1] != (0,):
        return None
    fits = wanted.shape[0] == len(layers) and old.shape[0] > max(layers) and old.shape[1:] == wanted.shape[1:]
    return layers if fits else None


def _before_grid(table: Parameter) -> int:
    """Returns how many rows a table of an image's positions has before those of its square grid."""
    return table.shape[0] - math.isqrt(table.shape[0]) ** 2


def _check_used(flag: str, rule: str | None, names: Collection[str], extended: dict[str, Extension]) -> None:
    if rule is not None and all(how.name not in names for how in extended.values()):
        raise UserError(f"{flag} {rule} has nothing to extend: no table that is taken is too short. Leave it out")


def _differences(paths: list[str], source: Architecture, target: Architecture) -> str:
    """Returns what differs in some arrays, and what to do about it."""
    have, want = source.parameters, target.parameters
    differences = [f"{path} {_shape(have, path)}, needed {_shape(want, path)}" for path in paths[:_SHOWN]]
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    remedies = {
        _remedy(have[path], want[path], source, target): None for path in paths if path in have and path in want
    }
    return "; ".join([*differences[:-1], f"{differences[-1]}{more}", *filter(None, remedies)])


def _remedy(old: Parameter, wanted: Parameter, source: Architecture, target: Architecture) -> str:
    if "positions" in wanted.names and source.first_position != target.first_position:
        return f"positions begin at row {source.first_position} there and at row {target.first_position} here"
    match _differing_axis(old, wanted):
        case "vocab", axis if old.shape[axis] < wanted.shape[axis]:
            return f"to extend the vocabulary give --init.vocabulary {' or '.join(get_args(VocabularyRule))}"
        case "vocab", axis:
            return f"a vocabulary is never cut: set --model.vocab-size to at least {old.shape[axis]}"
        case "positions", axis if old.shape[axis] < wanted.shape[axis]:
            *others, last = get_args(PositionRule)
            return f"to extend the positions give --init.positions {', '.join(others)} or {last}"
        case "layers", _:
            return "to take some of the layers name them by --init.layers (or --init.decoder-layers)"
        case "grid", _:
            return "for patches of other images give --init.positions interpolate"
        case "positions", axis:
            context = old.shape[axis] - source.first_position
            return f"positions are never cut: keep --model.context-length {context} and lower --train.seq-len"
    return ""


def _shape(arrays: dict[str, Parameter], path: str) -> str:
    return str(arrays[path].shape) if path in arrays else "none"


def _initial(architecture: Architecture, paths: list[str]) -> dict[str, jax.Array]:
    """Returns the initial values of some parameters; the compiler leaves out the others."""
    module = architecture.build(Execution())

    @jax.jit
    def init():
        boxed = module.init(jax.random.key(0), **architecture.example_inputs())["params"]
        flat = flatten(nn.meta.unbox(boxed))
        return {path: flat[path] for path in paths}

    return init()
