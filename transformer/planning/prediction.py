"""Prediction: what a step takes and how long, by the analytic model, and by the compiled program where there is one."""

import dataclasses

from transformer.parallel.collectives import Collective
from transformer.planning import analytic, sends, timing
from transformer.planning.analytic import Arithmetic, MemoryParts
from transformer.planning.chips import Topology
from transformer.planning.division import Division
from transformer.planning.step import CompiledStep
from transformer.planning.timing import Rates, StepTime
from transformer.training.experiment import Experiment

_KERNEL_DTYPES = ("bfloat16", "float16")
_WIDEST_HEAD = 128


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
      experiment: its mesh is the one that is planned.
      topology: the chips.
      rates: what one of them attains.
      compiled: the compiled step; None: the analytic model alone.

    Raises:
      UserError: the mesh does not use the chips, or divides no rows, lengths or parameters.
    """
    division = Division(experiment, topology.devices)
    kernel = has_kernel(experiment, topology, division)
    arithmetic = analytic.arithmetic(division, kernel=kernel)
    sent = sends.collectives(division) if compiled is None else compiled.collectives
    time = timing.step_time(
        arithmetic.computed / topology.devices,
        arithmetic.attention / topology.devices,
        analytic.traffic(division, kernel=kernel),
        sent,
        division.sizes,
        rates,
        division.depth,
    )
    return Prediction(
        experiment,
        topology,
        division,
        analytic.memory(division, kernel=kernel),
        arithmetic,
        sent,
        time,
        compiled,
    )


def has_kernel(experiment: Experiment, topology: Topology, division: Division) -> bool:
    """Whether attention is cuDNN's kernel, which never writes its scores (`ops.attention` decides in a run)."""
    model, execution = experiment.model, experiment.execution
    widths = {each.head_width for each in model.counts.attentions(*experiment.lengths)}
    kernels = [each for each in division.parameters if each.path.endswith("/query/kernel")]
    return (
        topology.platform == "cuda"
        and execution.attention in ("auto", "cudnn")
        and execution.dtype in _KERNEL_DTYPES
        and division.sizes["sequence"] == 1
        and bool(kernels)
        and max(widths) <= _WIDEST_HEAD
        and all(length % 2 == 0 for length in experiment.lengths)
        and not any("relative_bias" in each.modules for each in division.parameters)
        and not getattr(model, "attention_dropout", 0.0)
    )
