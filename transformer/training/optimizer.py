"""Optimizers and learning-rate schedules: optax's, put together by name."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from transformer import checks
from transformer.params import Names, is_matrix, map_parameters, own_axes
from transformer.training.schedule import Rates, Schedule, ScheduleName, schedule


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Which optimizer, and its learning rate over the run."""

    name: Literal["adamw", "adafactor", "lamb", "lion", "muon"] = "adamw"
    """adamw (Loshchilov and Hutter 2019), adafactor (Shazeer and Stern 2018), lamb (You et al. 2020), lion (Chen et al.
    2023), or muon (Jordan et al. 2024) for the matrices of the layers with AdamW for everything else."""
    learning_rate: float = 1e-3
    """The schedule's peak."""
    schedule: ScheduleName = "cosine"
    """After the warmup: cosine or linear decay to `final_fraction` of the peak; constant; inverse_sqrt, which is
    peak * sqrt(warmup_steps / step) (Vaswani et al. 2017, section 5.3); wsd, constant until the cooldown, then a
    1 - sqrt decay (Hägele et al. 2024)."""
    warmup_steps: int = 100
    """Updates over which the rate rises linearly from 0; the update after them has the peak."""
    final_fraction: float = 0.1
    """The last update's rate, as a fraction of the peak (cosine, linear, wsd)."""
    cooldown_fraction: float = 0.2
    """The share of the run's steps that the cooldown takes (wsd)."""
    weight_decay: float = 0.1
    """Decoupled decay, multiplied by the rate; on matrices only, never on biases and norm scales."""
    b1: float = 0.9
    """Decay of the first moment (adamw, lamb, lion)."""
    b2: float = 0.95
    """Decay of the second moment (adamw, lamb), of the momentum (lion)."""
    epsilon: float = 1e-8
    """Added to the denominator (adamw, lamb)."""
    momentum: float = 0.95
    """Decay of the momentum (muon)."""
    adam_learning_rate: float | None = None
    """Peak rate of what muon leaves to AdamW; by default `learning_rate`."""
    clip_norm: float | None = 1.0
    """Gradients of a larger global norm are scaled down to it; None: no clipping."""

    def __post_init__(self) -> None:
        checks.above(self, 0, "learning_rate", "epsilon")
        least = 1 if self.schedule == "inverse_sqrt" else 0
        enough = self.warmup_steps >= least
        checks.rule(self, "warmup_steps", enough, f"the {self.schedule} schedule needs at least {least}")
        checks.within(self, "[0, 1]", "final_fraction", "cooldown_fraction", "b1", "b2", "momentum")


class Factors(NamedTuple):
    """What multiplies an optimizer's numbers (`training.mup`): trees like the parameters, of numbers or of arrays that
    broadcast against them."""

    multiplier: Any
    """c, where what is stored is c W: the optimizer sees the gradient by W, and its update is one of W."""
    rate: Any
    """Factor of the learning rate, but where that multiplies the weight decay."""
    epsilon: Any
    """Factor of epsilon: of how large gradients are."""


def make_schedule(config: OptimizerConfig, steps: int) -> Schedule:
    """Returns the learning rates of a run of `steps` updates."""
    second = 1.0 if config.adam_learning_rate is None else config.adam_learning_rate / config.learning_rate
    return schedule(
        config.schedule,
        peak=config.learning_rate,
        final=config.final_fraction,
        warmup=config.warmup_steps,
        steps=steps,
        cooldown=round(config.cooldown_fraction * steps),
        second=second,
    )


def make_optimizer(
    config: OptimizerConfig, rates: Rates, names, factors: Factors | None = None
) -> optax.GradientTransformation:
    """Returns the gradient transformation of one update; what it keeps from update to update is that of any other.

    optax would ask a schedule for the rate of its own count, of the updates that were applied. After a skipped one that
    lags behind the step, and a run would end before its schedule. The counts are kept, for checkpoints hold them.

    Adafactor sees each parameter of all layers as one stacked array: its relative step size and its clipping are taken
    over the stack, where the paper takes them a layer at a time.

    Args:
      config: which optimizer, with what numbers.
      rates: of this update; they may be traced.
      names: the tree of the parameters' logical axis names (`params.param_names`).
      factors: what multiplies the numbers above, parameter by parameter; None: nothing does.
    """
    # Factors are of the learning rate alone: the decay is then added after them.
    decay = config.weight_decay if factors is None else 0.0
    rate = lambda _: rates.main  # noqa: E731 - optax's name for a schedule
    decayed = map_parameters(lambda path, _: is_matrix(path), names)
    match config.name:
        case "adamw":
            update = optax.adamw(rate, config.b1, config.b2, config.epsilon, weight_decay=decay, mask=decayed)
        case "lamb":
            update = optax.chain(
                optax.scale_by_adam(config.b1, config.b2, config.epsilon),
                optax.add_decayed_weights(config.weight_decay, decayed),
                _scale_by_trust_ratio(names),
                optax.scale_by_learning_rate(rate),
            )
        case "lion":
            update = optax.lion(rate, config.b1, config.b2, weight_decay=decay, mask=decayed)
        case "adafactor":
            update = optax.adafactor(
                rate,
                # optax does not multiply this decay by the rate; the other optimizers do.
                weight_decay_rate=(lambda _: config.weight_decay * rates.main) if config.weight_decay else None,
                weight_decay_mask=decayed,
            )
        case "muon":
            matrices = map_parameters(muon_axes, names)
            decayed = map_parameters(lambda path, axes: muon_axes(path, axes) is not None, names)
            update = optax.contrib.muon(
                rate,
                beta=config.momentum,
                weight_decay=decay,
                adam_b1=config.b1,
                adam_b2=config.b2,
                adam_weight_decay=0.0,
                adam_learning_rate=lambda _: rates.second,
                muon_weight_dimension_numbers=matrices,
                # An update of AdamW's usual size whatever the shape (Liu et al. 2025, "Muon is scalable", eq. 4), so
                # that one learning rate serves both halves.
                consistent_rms=0.2,
            )
    if factors is not None:
        update = optax.chain(
            _times(jax.tree.map(lambda factor: 1 / factor, factors.epsilon)),  # Adam's quotient but for epsilon's share
            update,
            _times(jax.tree.map(lambda multiplier, factor: multiplier * factor, factors.multiplier, factors.rate)),
            optax.add_decayed_weights(lambda _: -config.weight_decay * rates.main, decayed),
        )
    if config.clip_norm is not None:
        update = optax.chain(optax.clip_by_global_norm(config.clip_norm), update)
    if factors is not None:
        update = optax.chain(_times(factors.multiplier), update)
    return optax.GradientTransformationExtraArgs(update.init, _promoting(update.update))


def _scale_by_trust_ratio(names) -> optax.GradientTransformation:
    """Makes an update as long as its parameter, a layer at a time (You et al. 2020, LAMB, algorithm 2).

    optax.scale_by_trust_ratio would take the layers' stacked arrays for one parameter each.
    """

    def scaled(_: str, axes: Names, update: jax.Array, param: jax.Array) -> jax.Array:
        inside = own_axes(axes)
        weight_norm, step = _norm(param, inside), _norm(update, inside)
        return update * jnp.where((weight_norm > 0) & (step > 0), weight_norm / jnp.where(step > 0, step, 1.0), 1.0)

    def apply(updates, state, params=None):
        return map_parameters(scaled, names, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), apply)


def _times(factors) -> optax.GradientTransformation:
    """Multiplies each array by its factor."""
    return optax.stateless(lambda updates, params: jax.tree.map(lambda x, factor: x * factor, updates, factors))


def _norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sqrt(jnp.square(x).sum(axis=axes, keepdims=True))


def _promoting(function: Callable) -> Callable:
    """optax mixes its int32 counters with floats; this project's own code must never need an implicit promotion."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return call


BLOCK_AXES = frozenset({"heads", "kv_heads", "latent", "mlp"})
"""An axis of every kernel of a block, and of no embedding's or head's."""


WIDTH_AXES = frozenset({"embed", "expert_embed"})
"""The axis of the model width, of dense kernels and of experts'."""


def muon_axes(path: str, names: Names) -> optax.contrib.MuonDimensionNumbers | None:
    """A layer's kernel as a matrix, or an expert's: model width on one side, the other axes together on the other.

    The update's scale is symmetric (`consistent_rms`), so which side is the input does not matter.
    """
    width = [axis for axis in own_axes(names) if names[axis] in WIDTH_AXES]
    if not is_matrix(path) or not width or BLOCK_AXES.isdisjoint(names):
        return None
    others = tuple(axis for axis in own_axes(names) if axis not in width)
    return optax.contrib.MuonDimensionNumbers(reduction_axis=tuple(width), output_axis=others)
