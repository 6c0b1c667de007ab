"""Arithmetic: what a step computes, and what memory it reads and writes beside its products; no compiler.

With `memory` this is the analytic model.
"""

import dataclasses
import math
from collections.abc import Sequence

from transformer.params import Parameter, is_stacked
from transformer.planning.activations import COMPUTED_AGAIN, all_layers, layer_kernels, pairs_seen, policy_of
from transformer.planning.division import Division, is_kernel, of_layers, stack_of
from transformer.planning.memory import FLOAT32, SCORES, moments, word_scores
from transformer.training.optimizer import muon_axes

_NEWTON_SCHULZ = 5
"""Steps that Muon takes to make a matrix orthogonal (optax's default)."""


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """FLOPs of a step, over all devices."""

    model: float
    """What the model costs by the convention `exact`: by which utilisation is counted."""
    computed: float
    """What is computed: with what rematerialisation computes again, a pipeline's idle ticks, and an optimizer's
    products; without pairs of tokens that are skipped."""
    attention: float
    """The part of `computed` that multiplies tokens with tokens."""


def arithmetic(division: Division, *, kernel: bool) -> Arithmetic:
    """Returns the FLOPs of a step; arguments as `memory`'s."""
    experiment = division.experiment
    rows, lengths = experiment.train.batch_size, experiment.lengths
    by_kind = experiment.model.counts.flops_by_kind(*lengths)
    model = rows * sum(by_kind.values())
    scores = rows * by_kind["scores"]
    blocks = scores + rows * (by_kind["attention"] + by_kind["mlp"])
    # In units of a forward pass, of which a training step has three.
    policy = policy_of(division)
    again = 1 if policy in COMPUTED_AGAIN else 0
    # A kernel whose result is kept does not run again; without one, scores are computed again, and no sums of values.
    kept = 0 if kernel else 0.5
    scores_again = {
        "full": 1, "attention": kept, "projections": 1, "projections+attention": kept, "dots": 1 if kernel else 0,
        "none": 0,
    }[policy]  # fmt: skip
    ticks = division.ticks_ratio
    # Experts' products are no products of matrices to a policy, and none keeps them.
    experts = [each for each in layer_kernels(division) if "experts" in each.names]
    of_experts = 0.0 if policy in ("none", *COMPUTED_AGAIN) else _forward(division, experts)
    more = (of_experts - again * _last(division)) * ticks
    if division.pipeline is not None:  # each tick is computed again
        again, scores_again = again + 1, scores_again + 1
    if kernel:  # the backward pass of a kernel computes the scores again: five products in place of four
        scores_again += 0.5
    scores *= pairs_seen(division, kernel=kernel)
    attention = scores * (3 + scores_again) / 3 * ticks
    dense = (blocks - rows * by_kind["scores"]) * (3 + again) / 3 * ticks + more
    if division.counts_first:
        attention, dense = attention + scores / 3, dense + (blocks - rows * by_kind["scores"]) / 3
    head = model - blocks - _not_scored(division)
    return Arithmetic(model, dense + attention + head + _repeated(division) + _optimizer(division), attention)


def traffic(division: Division, *, kernel: bool) -> float:
    """Returns the bytes that one device's memory reads and writes in a step beside what its products do.

    Every activation of a layer is written once and read once, in each pass that makes or needs it; the optimizer reads
    a parameter, its gradient and moments, and writes all but the gradient.
    """
    again = 1 if policy_of(division) in COMPUTED_AGAIN else 0
    passes = 3 + again + (1 if division.pipeline is not None else 0)
    train = division.experiment.train
    layers = all_layers(division, kernel=kernel) * train.accumulation * division.ticks_ratio
    weights = FLOAT32 * sum(map(division.of_device, division.parameters))
    update = 3 * weights + 2 * moments(division)
    scores = 2 * SCORES * FLOAT32 * word_scores(division) * train.accumulation
    return 2 * passes * layers + update + scores


def _not_scored(division: Division) -> float:
    """Returns the FLOPs of the convention that are none: of a head for words that are not scored, as a masked language
    model's are but for the masked ones; and of gradients of pixels, which nothing asks for.
    """
    experiment = division.experiment
    counts, lengths, rows = experiment.model.counts, experiment.lengths, experiment.train.batch_size
    flops = 0.0
    for parameter in counts.parameters:
        if is_kernel(parameter) and {"pixels", "taps"} & {*parameter.names}:
            flops += 2.0 * rows * parameter.size * counts.places.met(parameter, *lengths)
    words = counts.places.words(*lengths)
    if division.scored_words < words:
        head = sum(each.size for each in counts.parameters if is_kernel(each) and each.modules[0] == "head")
        flops += 6.0 * rows * (head + counts.tied_products) * (words - division.scored_words)
    return flops


def _last(division: Division) -> float:
    """Returns the FLOPs of the forward products that `full` spares: of a layer's last, which the stream takes as it is.
    A norm after it, and an expert's weight, ask for it.
    """
    if not division.experiment.model.pre_norm:
        return 0.0
    downs = [each for each in layer_kernels(division) if each.modules[-1] == "down" and "experts" not in each.names]
    # Of a group of layers that are computed again together, the last one's.
    return sum(_forward(division, [each]) for each in {stack_of(each): each for each in downs}.values())


def _forward(division: Division, kernels: Sequence[Parameter]) -> float:
    """Returns the FLOPs of a forward pass of some of the layers' kernels."""
    experiment = division.experiment
    counts, lengths, flops = experiment.model.counts, experiment.lengths, 0.0
    for each in kernels:
        met = counts.places.met(each, *lengths) * counts.share(each) * _layers_of(each, division)
        flops += 2.0 * each.size * met
    return experiment.train.batch_size * flops


def _repeated(division: Division) -> float:
    """Returns the FLOPs that devices compute alike: of kernels that `tensor` does not split, its other devices', and of
    those outside the layers, those of other stages of a pipeline.
    """
    experiment = division.experiment
    counts, lengths, rows = experiment.model.counts, experiment.lengths, experiment.train.batch_size
    flops = 0.0
    for parameter in counts.parameters:
        if not is_kernel(parameter) or {"heads", "kv_heads", "mlp", "vocab"} & {*parameter.names}:
            continue
        alike = division.sizes["tensor"] * (1 if of_layers(parameter) else division.sizes["pipeline"]) - 1
        products = 4.0 if {"pixels", "taps"} & {*parameter.names} else 6.0
        met = counts.places.met(parameter, *lengths)
        if parameter.modules[0] == "head" and division.scored_words < counts.places.words(*lengths):
            met = division.scored_words
        flops += products * rows * parameter.size * met * _layers_of(parameter, division) * alike
    return flops


def _layers_of(parameter: Parameter, division: Division) -> float:
    """Returns how often a token meets a kernel: more than once where layers share it."""
    if not of_layers(parameter) or is_stacked(parameter.names):
        return 1.0
    return division.layers(parameter) * division.split("layers")


def _optimizer(division: Division) -> float:
    """Returns the FLOPs of the optimizer's products: Muon's, of which each copy along `data` computes its own."""
    if division.experiment.optimizer.name != "muon":
        return 0.0
    flops = 0.0
    for parameter in division.parameters:
        axes = muon_axes(parameter.path, parameter.names)
        if axes is None:
            continue
        sides = [
            math.prod(parameter.shape[axis] for axis in _tuple(side))
            for side in (axes.reduction_axis, axes.output_axis)
        ]
        short, long = sorted(sides)
        count = parameter.size / (short * long)
        flops += count * _NEWTON_SCHULZ * (4.0 * short**2 * long + 2.0 * short**3)
    return flops * (1 if division.experiment.mesh.zero1 else division.sizes["data"])


def _tuple(axis: int | Sequence[int]) -> tuple[int, ...]:
    return (axis,) if isinstance(axis, int) else tuple(axis)
