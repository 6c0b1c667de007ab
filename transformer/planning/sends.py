"""Sends: the collectives of a step by the analytic model, from what docs/parallelism.md says of each mesh axis.

They are `Collective`s, as those that are read from a compiled program, so that both are timed and printed alike. What
is small is left out: norms' scales, sums of losses, tokens' ids, routers' counts.
"""

from collections.abc import Iterator

from transformer.parallel.collectives import Collective, Kind
from transformer.parallel.hlo import Array
from transformer.planning.division import Division, is_kernel, of_layers, stack_of
from transformer.planning.memory import scores_words

_DTYPES = {2: "bf16", 4: "f32"}


def collectives(division: Division) -> list[Collective]:
    """Returns the collectives of a step."""
    return [
        each for part in (_layers, _vocabulary, _copies, _activations, _experts, _stages) for each in part(division)
    ]


def _layers(division: Division) -> Iterator[Collective]:
    """Layers' parameters: gathered in the dtype of compute, forwards and again backwards; gradients scattered."""
    ways = 2 + (division.pipeline is not None) + division.counts_first
    scattered: dict[tuple[str, tuple[str, ...], float], float] = {}
    for parameter in division.parameters:
        axes = division.gathering(parameter)
        if not (of_layers(parameter) and is_kernel(parameter) and axes):
            continue
        steps = division.layers(parameter)
        whole = division.gathered(parameter) / steps
        yield _sent(division, "all-gather", axes, whole, division.itemsize, steps * division.passes * ways)
        place = stack_of(parameter), axes, steps
        scattered[place] = scattered.get(place, 0.0) + whole
    for (_, axes, steps), whole in scattered.items():  # those of a layer go together
        yield _sent(division, "reduce-scatter", axes, whole, 4, steps * division.passes)


def _vocabulary(division: Division) -> Iterator[Collective]:
    """The unembedding is gathered once, and its gradient scattered; of the token embedding, rows travel."""
    model, train = division.experiment.model, division.experiment.train
    if model.vocab_size is None:
        return
    axes = tuple(axis for axis in ("fsdp", "expert") if division.sizes[axis] > 1)
    if axes and scores_words(division):
        table = model.vocab_size * model.width / division.split("vocab")
        yield _sent(division, "all-gather", axes, table, division.itemsize, train.accumulation)
        yield _sent(division, "reduce-scatter", axes, table, 4, train.accumulation)
    if axes:
        read = division.rows * division.experiment.lengths.total / division.sizes["sequence"] * model.width
        yield _sent(division, "all-to-all", axes, read, division.itemsize, 2 * train.accumulation)


def _copies(division: Division) -> Iterator[Collective]:
    """Gradients are added up over what copies the parameters: `data` once a step, `sequence` once a microbatch."""
    sizes, zero1 = division.sizes, division.experiment.mesh.zero1
    held = sum(map(division.of_device, division.parameters))
    if sizes["data"] > 1 and zero1:
        yield _sent(division, "reduce-scatter", ("data",), held, 4, 1)
        yield _sent(division, "all-gather", ("data",), held, 4, 1)
    elif sizes["data"] > 1:
        yield _sent(
            division, "all-reduce", ("data",), held, 4, 1 if division.pipeline is None else division.pipeline.ticks
        )
    if sizes["sequence"] > 1:
        yield _sent(division, "all-reduce", ("sequence",), held, 4, division.passes)


def _activations(division: Division) -> Iterator[Collective]:
    """`tensor`: two all-reduces of a layer's stream each way; where it is computed again, attention's once more, and
    the MLP's of all but the last of a group of layers.
    `sequence`: keys and values, gathered or passed on.
    """
    experiment, sizes = division.experiment, division.sizes
    model, remat = experiment.model, experiment.execution.remat
    again = 0.0 if remat == "none" else 2 - division.steps / division.depth
    if division.pipeline is not None:
        again += 2
    times = experiment.train.accumulation * division.ticks_ratio
    for parameter in division.parameters:
        if parameter.modules[-1] != "query" or not is_kernel(parameter) or not of_layers(parameter):
            continue
        layers = division.layers(parameter) * times
        tokens = division.rows * model.counts.places.met(parameter, *experiment.lengths) / sizes["sequence"]
        if sizes["tensor"] > 1:
            yield _sent(
                division, "all-reduce", ("tensor",), tokens * model.width, division.itemsize, layers * (4 + again)
            )
        if sizes["sequence"] > 1:
            yield from _keys(division, parameter.path, tokens, layers, again=again > 0)


def _keys(division: Division, query: str, tokens: float, layers: float, *, again: bool) -> Iterator[Collective]:
    n, ways = division.sizes["sequence"], 3 if again else 2
    kernels = [each for each in division.parameters if each.path in _keys_and_values(query)]
    width = sum(each.size / each.shape[1] / each.layers / division.split("kv_heads") for each in kernels)
    if division.experiment.execution.context == "ring":
        sends = (ways - 1) * (n - 1) * division.itemsize + n * (division.itemsize + 4)
        yield _sent(
            division,
            "collective-permute",
            ("sequence",),
            tokens * width * sends / division.itemsize,
            division.itemsize,
            layers,
        )
        return
    yield _sent(division, "all-gather", ("sequence",), n * tokens * width, division.itemsize, layers * (ways - 1))
    yield _sent(division, "reduce-scatter", ("sequence",), n * tokens * width, 4, layers)


def _keys_and_values(query: str) -> tuple[str, str]:
    return query.replace("/query/", "/key/"), query.replace("/query/", "/value/")


def _experts(division: Division) -> Iterator[Collective]:
    """Tokens are gathered and sums scattered, over `expert`, both ways, and gathered again for what is computed again;
    with a limited capacity, choices go by all-to-alls.
    """
    experiment, sizes = division.experiment, division.sizes
    routing = experiment.model.routing
    if routing is None or sizes["expert"] == 1:
        return
    again = 0 if experiment.execution.remat == "none" else 1
    for parameter in division.parameters:
        if parameter.modules[-1] != "router" or not is_kernel(parameter):
            continue
        layers = division.layers(parameter) * experiment.train.accumulation * division.ticks_ratio
        met = experiment.model.counts.places.met(parameter, *experiment.lengths)
        stream = division.rows * met / sizes["sequence"] * experiment.model.width
        if routing.capacity_factor is not None:
            choices = stream * routing.experts_per_token * routing.capacity_factor
            yield _sent(division, "all-to-all", ("expert",), choices, division.itemsize, layers * (4 + 2 * again))
            continue
        whole = stream * sizes["expert"]
        yield _sent(division, "all-gather", ("expert",), whole, division.itemsize, layers * (2 + again))
        yield _sent(division, "reduce-scatter", ("expert",), whole, division.itemsize, layers * 2)


def _stages(division: Division) -> Iterator[Collective]:
    """A tick's rows go on to the next stage, and their gradients back."""
    if division.pipeline is None:
        return
    experiment = division.experiment
    lengths = experiment.lengths
    rows = division.rows / division.pipeline.microbatches
    stream = rows * lengths.total / division.sizes["sequence"] * experiment.model.width
    times = 2 * division.pipeline.ticks * experiment.train.accumulation
    yield _sent(division, "collective-permute", ("pipeline",), stream, division.itemsize, times)


def _sent(
    division: Division, kind: Kind, axes: tuple[str, ...], numbers: float, itemsize: int, times: float
) -> Collective:
    group = 2 if kind == "collective-permute" else 1
    if group == 1:
        for axis in axes:
            group *= division.sizes[axis]
    array = Array(_DTYPES[itemsize], (round(numbers),))
    return Collective(kind, axes, False, group, round(times), True, (array,), "", "")
