"""Analytic model: what a step takes of a device, from the parameters' shapes, the lengths and the mesh; no compiler.

It keeps to what the compiled program was seen to do (docs/parallelism.md, docs/planning.md): parameters, moments and
gradients in float32; a layer's parameters gathered in the dtype of compute, one layer while the next is on its way; the
loss in chunks, against the whole of a device's vocabulary. Activations are those of Korthikanti et al. 2022, "Reducing
Activation Recomputation in Large Transformer Models", section 4, told by the shapes of kernels in place of one
architecture's formula.
"""

import dataclasses
import math
from collections.abc import Sequence

from transformer.params import Parameter, is_stacked
from transformer.planning.division import WIDTHS, Division, inputs, is_kernel, of_layers, outputs, part, stack_of
from transformer.training.optimizer import muon_axes

FLOAT32 = 4
_FACTORED = 128
"""Numbers of a dimension from which on Adafactor keeps its moment as rows and columns (optax's default)."""
_SCORES = 4
"""Arrays of scores' size, in float32, that the loss of words holds at a time: the scores, their exponentials, their
gradient, and what the next product reads."""
_KERNEL_BLOCK = 128
"""Queries that a kernel of attention computes together, and keys (Shah et al. 2024, "FlashAttention-3")."""
_NEWTON_SCHULZ = 5
"""Steps that Muon takes to make a matrix orthogonal (optax's default)."""


@dataclasses.dataclass(frozen=True)
class MemoryParts:
    """Bytes of one device, by what they are for."""

    weights: float
    moments: float
    gradients: float
    activations: float
    """What the forward pass keeps for the backward one."""
    working: float
    """What the largest layer, or the loss, needs besides while it is computed: gathered parameters too."""

    @property
    def state(self) -> float:
        """What lasts from step to step."""
        return self.weights + self.moments

    @property
    def peak(self) -> float:
        """The most at a time."""
        return self.state + self.gradients + self.activations + self.working


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


def memory(division: Division, *, kernel: bool) -> MemoryParts:
    """Returns the memory of a device.

    Args:
      division: the step, divided.
      kernel: whether attention is a kernel that never writes its scores.
    """
    parameters, train = division.parameters, division.experiment.train
    weights = FLOAT32 * sum(map(division.of_device, parameters))
    # The sum over microbatches and the gradients of one of them.
    gradients = weights * (2 if train.accumulation > 1 else 1)
    kept = _kept(division, kernel=kernel)
    in_backward = gradients + _layer(division, kernel=kernel)
    in_loss = (gradients if train.accumulation > 1 else 0) + _loss(division)
    activations = kept + _hidden(division)
    working = max(in_backward, in_loss) - gradients
    return MemoryParts(weights, moments(division), gradients, activations, max(working, 0.0))


def moments(division: Division) -> float:
    """Returns the bytes of the optimizer's moments that one device holds."""
    name, zero1 = division.experiment.optimizer.name, division.experiment.mesh.zero1
    copies = division.sizes["data"] if zero1 else 1
    numbers = 0.0
    for parameter in division.parameters:
        held = division.of_device(parameter)
        held /= copies if held % copies == 0 else 1
        if name == "adafactor":
            large = sorted(parameter.shape)[-2:]
            factored = len(large) == 2 and large[0] >= _FACTORED
            size = math.prod(parameter.shape)
            numbers += sum(size / dimension for dimension in large) if factored else held
        else:
            numbers += held * _MOMENTS.get(name, 1 if muon_axes(parameter.path, parameter.names) is not None else 2)
    return FLOAT32 * numbers


_COMPUTED_AGAIN = ("full", "attention")
"""Policies by which a layer's products with weights are computed again."""
_MOMENTS = {"adamw": 2, "lamb": 2, "lion": 1}
"""Optimizer -> moments a parameter; Muon has one of matrices and AdamW's two of everything else."""


def arithmetic(division: Division, *, kernel: bool) -> Arithmetic:
    """Returns the FLOPs of a step; arguments as `memory`'s."""
    experiment = division.experiment
    rows, lengths = experiment.train.batch_size, experiment.lengths
    by_kind = experiment.model.counts.flops_by_kind(*lengths)
    model = rows * sum(by_kind.values())
    scores = rows * by_kind["scores"]
    blocks = scores + rows * (by_kind["attention"] + by_kind["mlp"])
    # In units of a forward pass, of which a training step has three.
    policy = _policy(division)
    again = 1 if policy in _COMPUTED_AGAIN else 0
    # A kernel whose result is kept does not run again; without one, scores are computed again, and no sums of values.
    kept = 0 if kernel else 0.5
    scores_again = {
        "full": 1, "attention": kept, "projections": 1, "projections+attention": kept, "dots": 1 if kernel else 0,
        "none": 0,
    }[policy]  # fmt: skip
    ticks = division.ticks_ratio
    # Experts' products are no products of matrices to a policy, and none keeps them.
    experts = [each for each in _kernels(division) if "experts" in each.names]
    of_experts = 0.0 if policy in ("none", *_COMPUTED_AGAIN) else _forward(division, experts)
    more = (of_experts - again * _last(division)) * ticks
    if division.pipeline is not None:  # each tick is computed again
        again, scores_again = again + 1, scores_again + 1
    if kernel:  # the backward pass of a kernel computes the scores again: five products in place of four
        scores_again += 0.5
    scores *= _seen(division, kernel=kernel)
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
    again = 1 if _policy(division) in _COMPUTED_AGAIN else 0
    passes = 3 + again + (1 if division.pipeline is not None else 0)
    train = division.experiment.train
    layers = _all_layers(division, kernel=kernel) * train.accumulation * division.ticks_ratio
    weights = FLOAT32 * sum(map(division.of_device, division.parameters))
    update = 3 * weights + 2 * moments(division)
    scores = 2 * _SCORES * FLOAT32 * _scores(division) * train.accumulation
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
    downs = [each for each in _kernels(division) if each.modules[-1] == "down" and "experts" not in each.names]
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


def _seen(division: Division, *, kernel: bool) -> float:
    """Returns the share of pairs that causal attention computes, which goes by blocks of queries: XLA's, and a kernel's
    that is given no mask.
    """
    experiment = division.experiment
    length = experiment.lengths.target or experiment.lengths.input
    if experiment.model.kind != "decoder" or division.sizes["sequence"] > 1 or (kernel and division.has_segments):
        return 1.0
    block = _KERNEL_BLOCK if kernel else max(64, -(-length // 16))
    return (
        sum((min(start + block, length) - start) * min(start + block, length) for start in range(0, length, block))
        / length**2
    )


def _policy(division: Division) -> str:
    """Returns what is computed again of a layer. A pipeline's products have its stages as a batch dimension, so that
    `projections` keeps none of them.
    """
    remat = division.experiment.execution.remat
    if division.pipeline is None:
        return remat
    return {"projections": "full", "projections+attention": "attention"}.get(remat, remat)


def _kept(division: Division, *, kernel: bool) -> float:
    """Returns the bytes that the forward pass of all of a device's layers keeps."""
    layers = _by_policy(division, _policy(division), kernel=kernel)
    if division.pipeline is not None:  # three arrays of the rows of a tick, and one tick's layers
        streams = 3 * _streams(division) / division.depth * division.ticks_ratio
        return streams + layers / division.pipeline.microbatches
    return layers


def _by_policy(division: Division, policy: str, *, kernel: bool) -> float:
    streams = _streams(division)
    if policy == "none":
        return _all_layers(division, kernel=kernel)
    kernels = [each for each in _kernels(division) if "experts" not in each.names]
    # Attention's results are as large as its queries.
    results = _made(division, [each for each in kernels if each.modules[-1] == "query"])
    if policy in _COMPUTED_AGAIN:  # what enters a step of the loop, which may be a group of layers
        return streams * division.steps / division.depth + (results if policy == "attention" else 0.0)
    kept = results if policy == "projections+attention" else 0.0
    scores = _probabilities(division) + streams if policy == "dots" and not kernel else 0.0
    return streams + _made(division, kernels) + kept + scores


def _made(division: Division, kernels: Sequence[Parameter]) -> float:
    """Returns the bytes of what some kernels make, in all layers of a device."""
    sizes = (part(outputs(each), division) * _tokens(each, division) * division.layers(each) for each in kernels)
    return division.itemsize * sum(sizes)


def _layer(division: Division, *, kernel: bool) -> float:
    """Returns the bytes that one layer's backward pass needs besides what is kept."""
    remat = division.experiment.execution.remat
    one = _all_layers(division, kernel=kernel) / division.steps
    again = 0.0 if remat == "none" else one
    weights: dict[str, float] = {}
    for parameter in filter(of_layers, division.parameters):
        copies = 2 * division.itemsize + FLOAT32 if division.gathering(parameter) else division.itemsize
        if "experts" in parameter.names:  # their gradients are made in one layout and scattered in another
            copies += 2 * FLOAT32
        amount = copies * division.gathered(parameter) / division.layers(parameter)
        weights[stack_of(parameter)] = weights.get(stack_of(parameter), 0.0) + amount
    # Without a kernel, a layer's scores and their gradient are there in float32, of all blocks of queries at a time.
    scores = 0.0 if kernel else 2 * FLOAT32 / division.itemsize * _probabilities(division) / division.steps
    of_a_layer = max(weights.values(), default=0.0) * division.steps / division.depth  # gathered one after another
    return again + one / 2 + of_a_layer + scores


def _all_layers(division: Division, *, kernel: bool) -> float:
    """Returns the bytes of the activations of all of a device's layers that a backward pass needs."""
    numbers, read = 0.0, set()
    for parameter in _kernels(division):
        tokens = _tokens(parameter, division) * division.layers(parameter)
        if not WIDTHS & outputs(parameter).keys():  # what is added to the stream is kept as what the next norm reads
            numbers += part(outputs(parameter), division) * tokens
        source = (
            parameter.modules[-2] if len(parameter.modules) > 1 else "",
            *parameter.path.split("/")[:-3],
            *inputs(parameter),
        )
        if source not in read:  # what several kernels read is kept once
            read.add(source)
            numbers += part(inputs(parameter), division) * tokens
    # Each of a layer's two norms keeps its input.
    return division.itemsize * numbers + 2 * _streams(division) + (0.0 if kernel else _probabilities(division))


def _streams(division: Division) -> float:
    """Returns the bytes of what enters each of a device's layers."""
    width = division.experiment.model.width
    return sum(
        division.itemsize * width * _tokens(each, division) * division.layers(each)
        for each in _kernels(division)
        if each.modules[-1] == "query" and "cross_attention" not in each.modules
    )


def _probabilities(division: Division) -> float:
    """Returns the bytes of attention's probabilities in all of a device's layers."""
    places, lengths = division.experiment.model.counts, division.experiment.lengths
    heads = division.split("heads") * division.sizes["sequence"] * division.sizes["pipeline"]
    pairs = sum(each.heads * each.pairs for each in places.attentions(*lengths))
    return division.itemsize * division.rows * pairs * _seen(division, kernel=False) / heads


def _hidden(division: Division) -> float:
    """Returns the bytes of what the head reads, and its gradient."""
    model, lengths = division.experiment.model, division.experiment.lengths
    words = model.counts.places.words(*lengths) / division.sizes["sequence"]
    return 2 * division.itemsize * division.rows * words * model.width


def _scores(division: Division) -> float:
    """Returns how many scores of words a device computes in a microbatch; 0 of a head that scores none."""
    model = division.experiment.model
    if model.vocab_size is None or not scores_words(division):
        return 0.0
    words = division.scored_words / division.sizes["sequence"]
    return division.rows * words * model.vocab_size / division.split("vocab")


def scores_words(division: Division) -> bool:
    """Whether the head multiplies hidden states with the words' vectors."""
    return division.experiment.model.head in ("language_model", "masked_lm", "pretraining")


def _loss(division: Division) -> float:
    """Returns the bytes that the loss of words needs: scores, the whole unembedding, and its float32 gradient."""
    model, objective = division.experiment.model, division.experiment.objective
    if not scores_words(division) or model.vocab_size is None:
        return 0.0
    chunk, length = getattr(objective, "chunk", None), division.scored_words / division.sizes["sequence"]
    share = 1.0 if chunk is None else min(chunk / length, 1.0)
    unembedding = model.vocab_size * model.width / division.split("vocab")
    # A gather along the width comes in parts, which are then put together.
    copies = 2 if division.split("embed") > 1 else 1
    return _SCORES * FLOAT32 * _scores(division) * share + (copies * division.itemsize + FLOAT32) * unembedding


def _kernels(division: Division) -> list[Parameter]:
    return [each for each in division.parameters if is_kernel(each) and of_layers(each)]


def _tokens(parameter: Parameter, division: Division) -> float:
    """Returns how many rows of activations meet a kernel of one layer on a device.

    Experts' buffers have room for every choice of the tokens that the devices along `expert` gather, since all may fall
    on one device; those of limited capacity for their even share, times its factor.
    """
    model = division.experiment.model
    met = model.counts.places.met(parameter, *division.experiment.lengths)
    tokens = division.rows * met / division.sizes["sequence"]
    if "experts" not in parameter.names or model.routing is None:
        return tokens
    routing = model.routing
    if routing.capacity_factor is not None:
        return tokens * routing.experts_per_token * routing.capacity_factor
    return tokens * routing.experts_per_token * division.sizes["expert"]
