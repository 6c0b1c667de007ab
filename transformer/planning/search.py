"""Search: meshes, rematerialisation and microbatches for so many chips, the fastest first by the analytic model."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from transformer.errors import UserError
from transformer.layers.execution import OFFLOADED, REMAT_POLICIES
from transformer.parallel.mesh import MeshConfig
from transformer.planning.chips import Topology
from transformer.planning.prediction import Prediction, predict
from transformer.planning.timing import Rates
from transformer.training.experiment import Experiment

LONGEST_PIPELINE = 16
REMAT = ("none", *(policy for policy in reversed(REMAT_POLICIES) if not policy.endswith(OFFLOADED)))
"""Policies that are tried: of copies to a host no time is planned."""


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search came to."""

    best: list[Prediction]
    """What fits, the fastest first."""
    tried: int
    """Candidates whose mesh divides the experiment."""
    smallest: Prediction
    """What takes the least memory, whether it fits or not."""


def search(experiment: Experiment, topology: Topology, rates: Rates) -> Found:
    """Returns the candidates that fit, by predicted time.

    `tensor` and `expert` stay within a host; `sequence` is the experiment's own, as rows that are too long for one
    device call for it and others do not. Of candidates that take as long, the one with the least memory is first.

    Raises:
      UserError: no mesh of so many chips divides the experiment.
    """
    predictions = []
    for candidate in candidates(experiment, topology):
        try:
            predictions.append(predict(candidate, topology, rates))
        except UserError:  # it does not divide rows or parameters
            continue
    if not predictions:
        raise UserError(
            f"--search: no mesh of {topology.devices:,} devices divides {experiment.name}: its "
            f"--train.batch-size {experiment.train.batch_size}, its width, heads, layers, words; change one of them"
        )
    fitting = sorted(
        (each for each in predictions if each.fits), key=lambda each: (round(each.time.total, 4), each.memory.peak)
    )
    return Found(fitting, len(predictions), min(predictions, key=lambda each: each.memory.peak))


def candidates(experiment: Experiment, topology: Topology) -> Iterator[Experiment]:
    """Yields the experiment with each mesh, policy and number of microbatches that is worth a look."""
    within = min(topology.per_host or 8, topology.devices)
    routing = experiment.model.routing
    sequence = experiment.mesh.sequence
    for tensor, expert, pipeline in itertools.product(
        _divisors(within), _divisors(within), _divisors(topology.devices)
    ):
        rest = topology.devices // (tensor * expert * pipeline * sequence)
        inside = tensor * expert <= within and pipeline <= LONGEST_PIPELINE
        if not inside or rest * tensor * expert * pipeline * sequence != topology.devices:
            continue
        if expert > 1 and (routing is None or routing.num_experts % expert):
            continue
        for fsdp in _divisors(rest):
            mesh = MeshConfig(
                data=rest // fsdp,
                fsdp=fsdp,
                tensor=tensor,
                expert=expert,
                pipeline=pipeline,
                sequence=sequence,
                nodes=experiment.mesh.nodes,
                zero1=experiment.mesh.zero1 and rest > fsdp,
            )
            axes = (rest // fsdp, fsdp, tensor, expert, pipeline, sequence)
            if topology.sides is not None and not lies_on(topology.sides, axes):
                continue
            yield from _with_mesh(experiment, mesh, rest * expert)


def lies_on(sides: Sequence[int], axes: Sequence[int]) -> bool:
    """Whether a mesh can be laid out on a TPU slice: each axis is the product of sides of its own."""
    wanted = [size for size in axes if size > 1]
    if not wanted:
        return True
    first, *others = wanted
    for count in range(1, len(sides) + 1):
        for chosen in itertools.combinations(range(len(sides)), count):
            left = [side for place, side in enumerate(sides) if place not in chosen]
            if math.prod(sides[place] for place in chosen) == first and lies_on(left, others):
                return True
    return False


def _with_mesh(experiment: Experiment, mesh: MeshConfig, groups: int) -> Iterator[Experiment]:
    """Yields the experiment on a mesh that cuts a batch into so many parts."""
    batch = experiment.train.batch_size
    if batch % groups:
        return
    parts = [1] if not experiment.objective.sums_over_examples else _divisors(batch // groups)
    for accumulation, remat in itertools.product(parts, REMAT):
        yield dataclasses.replace(
            experiment,
            mesh=mesh,
            train=dataclasses.replace(experiment.train, accumulation=accumulation),
            execution=dataclasses.replace(experiment.execution, remat=remat, microbatches=None),
        )


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]
