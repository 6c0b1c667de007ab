"""muP: the best learning rate of a narrow model is that of a wide one; and, with base layers, of a deep one.

Width: Yang et al. 2022, "Tensor Programs V: tuning large neural networks via zero-shot hyperparameter transfer", table
8, its Adam column. Depth: Dey et al. 2025, "Don't be lazy: CompleteP enables compute-efficient deep transformers",
table 1, with alpha = 1. In a model of m times the base's width and l times its layers, a parameter W and the multiplier
c that stands before it in the forward pass are, times the base's own,

    W                                       c             initial std    rate    epsilon
    embeddings, biases, norms               1             1              1       1/m
    matrices from the width to the width    1             m^-1/2         1/m     1/m
    readouts, untied or the embedding       1/m           1              1       1/m
    queries (so that scores are q k / K)    (K0/K)^1/2    as the matrix  or bias that it is
    what adds to the residual stream        1/l           as the matrix  or bias that it is

and every epsilon within the blocks 1/l of that. Weight decay is multiplied by the schedule's rate without the factor of
the table (as CompleteP's, which is m times as large where the rate is 1/m). What does not grow, such as a table of
distances, keeps its numbers. Of muon's matrices the rate is another: `_Rules.leaf`.

No forward pass changes for it. What is stored is c W, so that a model that was trained so is restored, exported and run
as any other. The exchange is exact (Tensor Programs V, lemma J.1): the gradient by W is c times that by what is stored;
the optimizer makes of it an update of W; c times that goes to what is stored. A matrix keeps its own multiplier; a
readout that is the embedding cannot, and keeps it in the scale and bias of the norm that it reads. Where the family
itself scales words, scores or hidden states by the width (the Transformer's D^1/2, T5's D^-1/2), that is a part of c.

Families differ in how their initial standard deviations go with the width. So those of the base are measured, array by
array, on the base drawn with the run's seed, and what the model draws is brought to as much as the table says.
"""

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from transformer import checks
from transformer.checks import FieldError
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models import Architecture
from transformer.models.resizing import scaled
from transformer.params import (
    Names,
    flatten,
    is_matrix,
    is_stacked,
    map_parameters,
    name_of,
    own_axes,
    param_names,
    stacked_axes,
)
from transformer.training.optimizer import BLOCK_AXES, WIDTH_AXES, Factors, OptimizerConfig, muon_axes

OPTIMIZERS = ("adamw", "lion", "muon")
"""Those whose update's size does not depend on the gradient's: what the rules are known for."""


@dataclasses.dataclass(frozen=True)
class MupConfig:
    """The size that the optimizer's numbers were chosen at. At that size nothing changes; others scale them by muP."""

    base_width: int | None = None
    """Model width that the learning rate was chosen at. None: no muP, the learning rate is this model's."""
    base_head_width: int | None = None
    """Width of the base's attention heads; None: the model's own, of which the base then has fewer."""
    base_layers: int | None = None
    """Blocks that the learning rate was chosen at, of the deeper side where there are two (pre-norm families only);
    None: as many as the model has."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "base_width", "base_head_width", "base_layers")
        whole = self.base_width is not None or (self.base_head_width is None and self.base_layers is None)
        checks.require(self, whole, "`base_head_width` and `base_layers` need `base_width`")

    def base(self, architecture: Architecture) -> Architecture | None:
        """Returns the model that the hyperparameters are of; None without muP, or where it is this very model.

        Raises:
          UserError: there is no such model; or layers were given for a family whose blocks are post-norm.
        """
        if self.base_width is None:
            return None
        try:
            base = scaled(architecture, self.base_width, head_width=self.base_head_width, layers=self.base_layers)
        except UserError as error:
            raise FieldError(MupConfig, f"`base_width` {self.base_width}: {error}") from error
        if self.base_layers is not None and not architecture.pre_norm:
            raise FieldError(
                MupConfig,
                f"`base_layers` {self.base_layers}: the rule for depth is one of pre-norm blocks, and "
                f"{architecture.family} has post-norm ones: give `base_width` alone",
            )
        return None if base == architecture else base


class Scaling(NamedTuple):
    """What muP changes of a run."""

    base: Architecture
    factors: Factors
    """Factors of the optimizer's numbers."""
    spread: Any
    """A tree like the parameters: what multiplies W's initial standard deviation in the base."""

    def rescaled(self, params: Any, seed: Any) -> Any:
        """Returns what a run starts with, from `params` as the family draws them.

        Args:
          params: of the model, drawn with `seed`.
          seed: what the base model is drawn with to see how large its arrays are.
        """
        drawn = self.base.build(Execution()).init(jax.random.key(seed), **self.base.example_inputs())
        base = nn.meta.unbox(drawn["params"])

        def initial(
            path: str, _: Names, param: jax.Array, other: jax.Array, multiplier: Any, spread: float
        ) -> jax.Array:
            if is_matrix(path):  # the others start as constants, the same at any size
                param = param * (spread * _rms(other) / _rms(param))
            return param * multiplier

        return map_parameters(initial, param_names(params), params, base, self.factors.multiplier, self.spread)


def scaling(architecture: Architecture, mup: MupConfig, optimizer: OptimizerConfig) -> Scaling | None:
    """Returns what muP changes; None: nothing.

    Raises:
      UserError: as `MupConfig.base`; or an optimizer that muP has no rule for.
    """
    base = mup.base(architecture)
    if mup.base_width is not None and optimizer.name not in OPTIMIZERS:
        raise FieldError(
            OptimizerConfig,
            f"`name` {optimizer.name}: muP has no rule for it; choose from: {', '.join(OPTIMIZERS)}, or leave out "
            "`mup.base_width`",
        )
    if base is None:
        return None
    boxed = architecture.abstract_params()
    params, others = nn.meta.unbox(boxed), nn.meta.unbox(base.abstract_params())
    head = _head_width(params) / _head_width(others)
    rules = _Rules(architecture, base, optimizer.name == "muon", _has_head_norms(params), head)
    leaves = map_parameters(
        lambda path, names, param, other: rules.leaf(path, names, param.shape, other.shape),
        param_names(boxed),
        params,
        others,
    )

    def part(field: str) -> Any:
        return jax.tree.map(operator.attrgetter(field), leaves, is_leaf=lambda node: isinstance(node, _Leaf))

    return Scaling(base, Factors(part("multiplier"), part("rate"), part("epsilon")), part("spread"))


class _Leaf(NamedTuple):
    """The table's row of one parameter."""

    multiplier: Any
    spread: float
    rate: float
    epsilon: float


@dataclasses.dataclass(frozen=True)
class _Rules:
    """The table."""

    model: Architecture
    base: Architecture
    muon: bool
    head_norms: bool
    head: float
    """Width of a head over the base's."""

    def leaf(self, path: str, names: Names, shape: Sequence[int], base: Sequence[int]) -> _Leaf:
        """Returns the row of a parameter of this shape here and of that shape in the base.

        Muon's update of a matrix has singular values of 0.2 (longest side)^1/2, all of them. They are to go as (fan-out
        / fan-in)^1/2 (Yang, Simon and Bernstein 2023, "A spectral condition for feature learning", condition 1).
        """
        every = [size / other for size, other in zip(shape, base, strict=True)]
        layers = math.prod(every[axis] for axis in stacked_axes(names))
        ratios = {axis: every[axis] for axis in own_axes(names)}
        width = self.model.width / self.base.width
        wide = any(ratio != 1 for ratio in ratios.values())
        inputs = _inputs(path, names)
        fan_in = math.prod(ratios[axis] for axis in inputs)
        fan_out = math.prod(ratio for axis, ratio in ratios.items() if axis not in inputs)
        reads = bool(inputs) and fan_out == 1 and BLOCK_AXES.isdisjoint(names)
        spread, rate = (1.0, 1.0) if reads else (fan_in**-0.5, 1 / fan_in)
        if self.muon and muon_axes(path, names) is not None:
            rate = (fan_out / fan_in / (_longest(names, shape) / _longest(names, base))) ** 0.5
        multiplier = 1 / fan_in if reads else self._multiplier(path, ratios[max(ratios)] if ratios else 1.0)
        if _module(path) in ("out", "down"):
            multiplier /= layers  # of the base's, hence 1 but in pre-norm families, and 1 outside of the blocks
        if is_stacked(names) and self._tied(path):  # of all blocks' norms the last is the one that is read
            multiplier = np.array([*[1.0] * (shape[0] - 1), multiplier], np.float32)[:, None]
        return _Leaf(multiplier, spread, rate, 1 / ((width if wide else 1.0) * layers))

    def _multiplier(self, path: str, last: float) -> float:
        """Returns c of all but untied readouts, residual branches left out; `last` is the last axis's ratio."""
        words = self.model.embedding_scale / self.base.embedding_scale
        if path == "backbone/token_embedding/embedding":
            return 1 / words
        if self._tied(path):
            return words / (self.model.unembedding_scale / self.base.unembedding_scale * last)
        if _module(path) == ("query_norm" if self.head_norms else "query"):
            return self.head**-0.5 if self.model.scales_scores else 1 / self.head
        return 1.0

    def _tied(self, path: str) -> bool:
        return any(path.startswith(f"{norm}/") for norm in self.model.tied_norms)


def _inputs(path: str, names: Names) -> tuple[int, ...]:
    """Returns the axes of a parameter that are summed over where it multiplies activations."""
    if name_of(path) != "kernel":
        return ()
    axes = own_axes(names)
    match [names[axis] for axis in axes]:
        case ["heads", "head", _]:  # attention's output
            return axes[:2]
        case ["vocab", "embed"]:  # a row a word, like the embedding
            return (axes[1],)
    return (axes[0],)


def _longest(names: Names, shape: Sequence[int]) -> int:
    """Returns the longer side of what `muon_axes` takes for a matrix."""
    width = math.prod(shape[axis] for axis in own_axes(names) if names[axis] in WIDTH_AXES)
    return max(width, math.prod(shape[axis] for axis in own_axes(names)) // width)


def _has_head_norms(params: Any) -> bool:
    """Whether queries go through a norm, which forgets their scale."""
    return any(_module(path) == "query_norm" for path in flatten(params))


def _head_width(params: Any) -> int:
    """Returns the width of queries' heads."""
    return next(leaf.shape[-1] for path, leaf in flatten(params).items() if path.endswith("/query/kernel"))


def _module(path: str) -> str:
    return name_of(path.rpartition("/")[0])


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)))
