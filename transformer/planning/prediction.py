"""Prediction: what a step takes and how long, by the analytic model, and by the compiled program where there is one."""

import dataclasses

from transformer.parallel.collectives import Collective
from transformer.planning import sends, timing
from transformer.planning.arithmetic import Arithmetic, arithmetic, traffic
from transformer.planning.chips import Topology
from transformer.planning.division import Division
from transformer.planning.memory import MemoryParts, memory
from transformer.planning.rematerialisation import on_topology
from transformer.planning.step import CompiledStep
from transformer.planning.timing import Rates, StepTime
from transformer.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is said of a step before it is run."""

    experiment: Experiment
    topology: Topology
    division: Division
    memory: MemoryParts
    """By the analytic model."""
    arithmetic: Arithmetic
    collectives: list[Collective]
    """The compiled program's; without one, the analytic model's."""
    time: StepTime
    compiled: CompiledStep | None

    @property
    def peak(self) -> float:
        """Bytes of a device, at the most: by the compiler, where it was asked."""
        return self.memory.peak if self.compiled is None else self.compiled.memory.peak

    @property
    def fits(self) -> bool:
        """Whether a device has room for the step and for what libraries keep."""
        return self.peak <= LEFT * self.topology.memory

    @property
    def tokens_per_second(self) -> float:
        """Places of examples that all devices train on in a second."""
        return tokens(self.experiment) / self.time.total

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation; None where the chip's peak is not published."""
        peak = timing.peak_of(self.topology.chip)
        return None if peak is None else self.arithmetic.model / self.time.total / (peak * self.topology.devices)


LEFT = 0.92
"""Share of a device's memory that is left to a step: the driver's context, NCCL's buffers and fragments have the rest.
JAX itself preallocates three quarters of it, unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""


def tokens(experiment: Experiment) -> int:
    """Returns the places of examples of an update."""
    return experiment.train.batch_size * experiment.lengths.total


def predict(
    experiment: Experiment, topology: Topology, rates: Rates, compiled: CompiledStep | None = None
) -> Prediction:
    """Returns what a step takes of so many chips.

    Args:
      experiment: its mesh is the one that is planned. What it computes again is chosen here, where it leaves that open.
      topology: the chips.
      rates: what one of them attains.
      compiled: the compiled step; None: the analytic model alone.

    Raises:
      UserError: the mesh does not use the chips, or divides no rows, lengths or parameters.
    """
    experiment = on_topology(experiment, topology)
    division = Division(experiment, topology.devices)
    kernel = division.has_kernel(topology.platform)
    flops = arithmetic(division, kernel=kernel)
    sent = sends.collectives(division) if compiled is None else compiled.collectives
    time = timing.step_time(
        flops.computed / topology.devices,
        flops.attention / topology.devices,
        traffic(division, kernel=kernel),
        sent,
        division.sizes,
        rates,
        division.depth,
    )
    return Prediction(
        experiment,
        topology,
        division,
        memory(division, kernel=kernel),
        flops,
        sent,
        time,
        compiled,
    )
