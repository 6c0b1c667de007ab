"""Activations: what a forward pass leaves for the backward one, told by the shapes of kernels and the lengths.

They are those of Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4,
for any architecture in place of one architecture's formula.
"""

from collections.abc import Sequence

from transformer.layers.execution import OFFLOADED
from transformer.params import Parameter
from transformer.planning.division import WIDTHS, Division, inputs, is_kernel, of_layers, outputs, part

_KERNEL_BLOCK = 128
"""Queries that a kernel of attention computes together, and keys (Shah et al. 2024, "FlashAttention-3")."""


COMPUTED_AGAIN = ("full", "attention")
"""Policies by which a layer's products with weights are computed again."""


def policy_of(division: Division) -> str:
    """Returns what is computed again of a layer. A pipeline's products have its stages as a batch dimension, so that
    `projections` keeps none of them.
    """
    remat = division.experiment.execution.remat.removesuffix(OFFLOADED)
    if division.pipeline is None:
        return remat
    return {"projections": "full", "projections+attention": "attention"}.get(remat, remat)


def kept_by(division: Division, policy: str, *, kernel: bool) -> float:
    """Returns the bytes that a policy keeps of the activations of all of a device's layers."""
    streams = entering(division)
    if policy == "none":
        # Besides, what hidden values are multiplied with, made of what a gate's kernel makes.
        gates = _made(division, [each for each in layer_kernels(division) if each.modules[-1] == "gate"])
        return all_layers(division, kernel=kernel) + gates
    kernels = [each for each in layer_kernels(division) if "experts" not in each.names]
    # Attention's results are as large as its queries.
    results = _made(division, [each for each in kernels if each.modules[-1] == "query"])
    if division.experiment.execution.remat.endswith(OFFLOADED):
        policy = "full"  # the rest waits in the host's memory
    if policy in COMPUTED_AGAIN:  # what enters a step of the loop, which may be a group of layers
        return streams * division.steps / division.depth + (results if policy == "attention" else 0.0)
    kept = results if policy == "projections+attention" else 0.0
    scores = probabilities(division) + streams if policy == "dots" and not kernel else 0.0
    return streams + _made(division, kernels) + kept + scores


def all_layers(division: Division, *, kernel: bool) -> float:
    """Returns the bytes of the activations of all of a device's layers that a backward pass needs."""
    numbers, read = 0.0, set()
    for parameter in layer_kernels(division):
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
    return division.itemsize * numbers + 2 * entering(division) + (0.0 if kernel else probabilities(division))


def entering(division: Division) -> float:
    """Returns the bytes of what enters each of a device's layers."""
    width = division.experiment.model.width
    return sum(
        division.itemsize * width * _tokens(each, division) * division.layers(each)
        for each in layer_kernels(division)
        if each.modules[-1] == "query" and "cross_attention" not in each.modules
    )


def probabilities(division: Division) -> float:
    """Returns the bytes of attention's probabilities in all of a device's layers."""
    places, lengths = division.experiment.model.counts, division.experiment.lengths
    heads = division.split("heads") * division.sizes["sequence"] * division.sizes["pipeline"]
    pairs = sum(each.heads * each.pairs for each in places.attentions(*lengths))
    return division.itemsize * division.rows * pairs * pairs_seen(division, kernel=False) / heads


def pairs_seen(division: Division, *, kernel: bool) -> float:
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


def _made(division: Division, kernels: Sequence[Parameter]) -> float:
    """Returns the bytes of what some kernels make, in all layers of a device."""
    sizes = (part(outputs(each), division) * _tokens(each, division) * division.layers(each) for each in kernels)
    return division.itemsize * sum(sizes)


def layer_kernels(division: Division) -> list[Parameter]:
    """Returns the arrays of the layers that multiply activations."""
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
