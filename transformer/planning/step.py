"""Step: an experiment's update, compiled for devices that are not there, and what the program says of itself."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh

from transformer.errors import UserError
from transformer.parallel.collectives import Collective, read
from transformer.planning.absent import OPTIONS, NotInstalled, devices_of
from transformer.planning.batch import abstract_batch
from transformer.planning.chips import Topology
from transformer.planning.products import Products, products
from transformer.training.experiment import Experiment
from transformer.training.program import Program
from transformer.training.session import mesh_for


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    params: int
    state: int
    """Parameters, the optimizer's moments and counters."""
    arguments: int
    """What the step is given: the state and the batch. What it returns takes the state's place."""
    temporaries: int
    """All that it needs between: activations, gathered parameters, gradients. An upper bound: not all live at once."""
    peak: int
    """The most at a time, by the compiler's own count; where it gives none, arguments and temporaries together."""


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A compiled update."""

    mesh: Mesh
    memory: Memory
    collectives: list[Collective]
    products: Products | None = None
    """FLOPs of the traced program."""


class Built(NamedTuple):
    """A compiled update, which can be run where its devices are there."""

    mesh: Mesh
    program: Program
    traced: jax.stages.Traced
    executable: jax.stages.Compiled
    platform: str


def compile_step(experiment: Experiment, topology: Topology) -> CompiledStep:
    """Compiles the update of an experiment for a topology; nothing runs, and no data is read.

    Raises:
      NotInstalled: the compiler, or cuDNN where the step calls it.
      UserError: what a run would refuse (the mesh, the batch), or a step that the compiler itself finds too large.
    """
    return described(build(experiment, topology))


def build(experiment: Experiment, topology: Topology) -> Built:
    """Returns the compiled update; raises as `compile_step`."""
    mesh = mesh_for(experiment, devices_of(topology))
    with jax.set_mesh(mesh):
        try:
            program = Program(experiment, mesh)
            traced = program.trace(abstract_batch(experiment, mesh))
            executable = traced.lower().compile(compiler_options=OPTIONS[topology.platform])
        except (JaxRuntimeError, RuntimeError) as error:
            raise _explained(error) from error
    return Built(mesh, program, traced, executable, topology.platform)


def described(built: Built) -> CompiledStep:
    """Returns what a compiled update says of itself."""
    stats, text = built.executable.memory_analysis(), built.executable.as_text()
    if stats is None or text is None:
        raise ValueError(f"the compiler for {built.platform} does not show its program")
    arguments, temporaries = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    returned = stats.output_size_in_bytes - stats.alias_size_in_bytes
    # The CPU's own figure leaves out the temporaries.
    peak = stats.peak_memory_in_bytes if built.platform != "cpu" else 0
    if stats.host_temp_size_in_bytes:  # which it counts, too
        peak = min(peak, arguments + returned + temporaries)
    memory = Memory(
        params=bytes_of(built.program.abstract.params),
        state=bytes_of(built.program.abstract),
        arguments=arguments,
        temporaries=temporaries,
        peak=peak or arguments + returned + temporaries,
    )
    return CompiledStep(built.mesh, memory, read(text, built.mesh.shape), products(built.traced.jaxpr))


def bytes_of(tree: Any) -> int:
    """Returns the bytes that one device holds of a tree of `ShapeDtypeStruct`s with shardings."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _explained(error: RuntimeError) -> Exception:
    """Returns the error that a person can mend, where it is one."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" in text:
        return UserError(f"the step does not fit, says the compiler: {' '.join(text.split())[:300]}")
    if "cuDNN" in text:
        return NotInstalled(
            f"cuDNN's attention was not compiled ({text.splitlines()[0][:120]}): pip install -c constraints.txt "
            "--no-deps nvidia-cudnn-cu13, or choose --execution.attention xla"
        )
    return error
