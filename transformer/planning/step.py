"""Step: an experiment's update, compiled for devices that are not there, and what the program says of itself."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from jax.sharding import Mesh

from transformer.errors import UserError
from transformer.parallel.collectives import Collective, read
from transformer.planning.absent import OPTIONS, devices_of
from transformer.planning.batch import abstract_batch
from transformer.planning.chips import Topology
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


def compile_step(experiment: Experiment, topology: Topology) -> CompiledStep:
    """Compiles the update of an experiment for a topology; nothing runs, and no data is read.

    Raises:
      UserError: what a run would refuse (the mesh, the batch), a compiler that is not installed, or a step that the
        compiler itself finds too large.
    """
    mesh = mesh_for(experiment, devices_of(topology))
    with jax.set_mesh(mesh):
        try:
            program = Program(experiment, mesh)
            lowered = program.lower(abstract_batch(experiment, mesh))
            compiled = lowered.compile(compiler_options=OPTIONS[topology.platform])
        except (JaxRuntimeError, RuntimeError) as error:
            raise _explained(error) from error
    stats, text = compiled.memory_analysis(), compiled.as_text()
    if stats is None or text is None:
        raise ValueError(f"the compiler for {topology.shape} does not show its program")
    arguments, temporaries = stats.argument_size_in_bytes, stats.temp_size_in_bytes
    returned = stats.output_size_in_bytes - stats.alias_size_in_bytes
    memory = Memory(
        params=bytes_of(program.abstract.params),
        state=bytes_of(program.abstract),
        arguments=arguments,
        temporaries=temporaries,
        peak=stats.peak_memory_in_bytes or arguments + returned + temporaries,
    )
    return CompiledStep(mesh, memory, read(text, mesh.shape))


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
        return UserError(
            f"cuDNN's attention was not compiled ({text.splitlines()[0][:120]}): pip install -c constraints.txt "
            "--no-deps nvidia-cudnn-cu13, or choose --execution.attention xla"
        )
    return error
