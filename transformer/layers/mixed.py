"""Stacks of layers of two kinds: some with experts in place of the dense feed-forward layers.

A stack scans over layers that are alike. Layers whose kinds take turns are a stack of groups; others are several stacks
one after another, each of a run of layers that are alike.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from transformer.layers.execution import Execution, LayerOutput, Stack


@dataclasses.dataclass(frozen=True)
class Run:
    """Layers that one stack holds: groups of a few, each group alike."""

    first: int
    """Number of its first layer in the model."""
    kinds: tuple[bool, ...]
    """A group's layers: whether each has experts."""
    groups: int

    @property
    def layers(self) -> int:
        """How many layers it has."""
        return len(self.kinds) * self.groups

    def numbers(self, place: int) -> range:
        """Returns the model's numbers of the layers that have this place in their groups."""
        return range(self.first + place, self.first + self.layers, len(self.kinds))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which stacks hold a model's layers, and where their parameters are."""

    runs: tuple[Run, ...]

    @classmethod
    def of(cls, kinds: Sequence[bool]) -> "Layout":
        """Returns the layout of layers of these kinds: a stack of groups where they take turns, else a stack a run."""
        kinds = tuple(kinds)
        for period in range(1, len(kinds) // 2 + 1):
            if len(kinds) % period == 0 and kinds == kinds[:period] * (len(kinds) // period):
                return cls((Run(0, kinds[:period], len(kinds) // period),))
        first, runs = 0, []
        for kind, alike in itertools.groupby(kinds):
            runs.append(Run(first, (kind,), len(list(alike))))
            first += runs[-1].layers
        return cls(tuple(runs))

    @property
    def stacks(self) -> dict[str, int]:
        """Module that holds a stack of layers -> how many."""
        return dict(zip(self._names, (run.layers for run in self.runs), strict=True))

    def places(self) -> Iterator[tuple[str, bool, range]]:
        """Yields the path of each stacked block below the backbone, its kind, and the numbers of its layers."""
        for name, run in zip(self._names, self.runs, strict=True):
            for place, kind in enumerate(run.kinds):
                group = f"block_{place}/" if len(run.kinds) > 1 else ""
                yield f"{name}/layers/{group}", kind, run.numbers(place)

    def modules(self, make_block: Callable[..., nn.Module], execution: Execution) -> Any:
        """Returns the attribute `stack` of a backbone: one `Stack`, or a list of them, named `stack_0`, `stack_1`, ...

        Args:
          make_block: called with a kind, and `name`.
          execution: of the stacks.
        """
        stacks = []
        for run in self.runs:
            block = functools.partial(make_block, run.kinds[0])
            if len(run.kinds) > 1:
                block = functools.partial(_Group, make_block, run.kinds)
            stacks.append(Stack(block, run.groups, execution))
        return stacks if len(stacks) > 1 else stacks[0]

    def __call__(self, modules: Any, x: Any, per_layer: Any, *shared: Any, **static: Any) -> tuple[Any, LayerOutput]:
        """Runs the stacks of `modules` one after another.

        Args:
          modules: as `modules` made them.
          x: goes from layer to layer.
          per_layer: trees of arrays [layers, ...], of which each layer gets its own part; or None.
          *shared: arrays that every layer gets.
          **static: Python values that every layer gets.

        Returns:
          The last layer's `x`, and the layers' outputs, stacked; a router's sums over the layers of its place.
        """
        outputs = []
        for run, stack in zip(self.runs, modules if len(self.runs) > 1 else [modules], strict=True):
            own = jax.tree.map(operator.itemgetter(slice(run.first, run.first + run.layers)), per_layer)
            size = len(run.kinds)
            if size > 1:
                own = jax.tree.map(lambda leaf, size=size: leaf.reshape(-1, size, *leaf.shape[1:]), own)
            x, output = stack(x, own, *shared, **static)
            if size > 1:
                flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), output.cache)
                output = output.replace(cache=flat)
            outputs.append(output)
        return x, outputs[0] if len(outputs) == 1 else _joined(outputs, jnp.concatenate)

    @property
    def _names(self) -> list[str]:
        return ["stack"] if len(self.runs) == 1 else [f"stack_{index}" for index in range(len(self.runs))]


class _Group(nn.Module):
    """Blocks of several kinds, one after another."""

    make_block: Callable[..., nn.Module]
    kinds: tuple[bool, ...]

    @nn.compact
    def __call__(self, x: Any, layers: Any, *shared: Any, **static: Any) -> tuple[Any, LayerOutput]:
        """Returns the last block's `x`, and the blocks' outputs, stacked."""
        outputs = []
        for place, kind in enumerate(self.kinds):
            own = jax.tree.map(operator.itemgetter(place), layers)
            x, output = self.make_block(kind, name=f"block_{place}")(x, own, *shared, **static)
            outputs.append(output)
        return x, _joined(outputs, jnp.stack)


def _joined(outputs: Sequence[LayerOutput], join: Callable[[Sequence[jax.Array]], jax.Array]) -> LayerOutput:
    """Returns the caches joined, and all routers' sums."""
    cache = jax.tree.map(lambda *leaves: join(leaves), *(output.cache for output in outputs))
    return LayerOutput(cache, {name: sums for output in outputs for name, sums in output.routers.items()})
