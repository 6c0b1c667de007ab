"""Rematerialisation: what a step computes again, by planned memory, where an experiment leaves that to its devices.

What is kept spares computation, so the first policy that fits is taken, beginning with the one that keeps the most. The
choice follows from the experiment, the mesh and the memory of its devices alone, of which all processes know the same.
"""

import dataclasses
import os
from typing import NamedTuple

from jax.sharding import AbstractMesh, Mesh

from transformer.cluster.agreement import exchange
from transformer.planning.chips import GIB, Topology, memory_of
from transformer.planning.division import Division
from transformer.planning.memory import memory
from transformer.training.experiment import Experiment

POLICIES = ("none", "projections+attention", "attention", "full")
"""What is tried, what keeps the most first."""
MARGIN = 0.9
"""Share of the memory that JAX has which a plan may take: compiled steps took up to 9 % more than was planned, and an
allocator leaves gaps (docs/planning.md)."""
_JAX_TAKES = 0.75
"""Share of a GPU's memory that JAX takes unless the environment says otherwise."""
_FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


class Choice(NamedTuple):
    """What a step computes again, and why."""

    policy: str
    """A value of `Execution.remat`, but not `auto`."""
    reason: str
    """A phrase for people."""


def chosen(experiment: Experiment, mesh: Mesh | AbstractMesh) -> Choice:
    """Returns what a step computes again on a mesh, which stands in for the experiment's own.

    All processes of a job must call it, if any does.
    """
    if experiment.execution.remat != "auto":
        return Choice(experiment.execution.remat, "as --execution.remat says")
    if isinstance(mesh, AbstractMesh):
        return Choice("full", "the devices are not known")
    sizes = {axis: mesh.shape[axis] for axis in mesh.axis_names}
    experiment = dataclasses.replace(experiment, mesh=dataclasses.replace(experiment.mesh, **sizes))
    platform = mesh.devices.flat[0].platform
    return _first_that_fits(experiment, mesh.size, platform, 0.0 if platform == "cpu" else _of_devices(mesh))


def on_topology(experiment: Experiment, topology: Topology) -> Experiment:
    """Returns an experiment that says what is computed again, as `chosen` says it on the chips of a topology."""
    if experiment.execution.remat != "auto":
        return experiment
    room = _of_jax(topology.memory, topology.platform)
    return _with(experiment, _first_that_fits(experiment, topology.devices, topology.platform, room).policy)


def _first_that_fits(experiment: Experiment, devices: int, platform: str, of_jax: float) -> Choice:
    """Returns the choice for so many devices, of each of which JAX has some bytes; 0: nobody knows how many."""
    if platform == "cpu":
        return Choice("none", "memory is not planned on CPUs")
    if experiment.teacher.path is not None:
        return Choice("full", "a teacher's weights are in no plan")
    if not of_jax:
        return Choice("full", "how much memory these devices have is not known")
    peaks: dict[str, float] = {}
    for policy in POLICIES:
        division = Division(_with(experiment, policy), devices)
        peaks[policy] = memory(division, kernel=division.has_kernel(platform)).peak
        if peaks[policy] <= MARGIN * of_jax:
            break
    *too_large, policy = peaks
    reason = f"planned to take {peaks[policy] / GIB:.1f} GiB a device of {of_jax / GIB:.1f}"
    if too_large:
        reason += f"; {too_large[-1]} would take {peaks[too_large[-1]] / GIB:.1f}"
    return Choice(policy, reason)


def _of_devices(mesh: Mesh) -> float:
    """Returns the bytes that JAX has of each device, the least of all processes; 0 where nobody knows."""
    device = mesh.devices.flat[0]
    if type(device.client).__name__ == "CompileOnlyPyClient":  # it is described only, as of `absent.devices_of`
        return _of_jax(memory_of(device.device_kind) or 0, device.platform)
    known = mesh.local_devices[0].memory_stats() or {}
    return min(exchange("how much memory devices have", float(known.get("bytes_limit", 0))))


def _of_jax(size: int, platform: str) -> float:
    """Returns the bytes that JAX would have of a device of a size: of GPUs, it takes a share."""
    share = next((os.environ[name] for name in _FRACTIONS if os.environ.get(name)), _JAX_TAKES)
    return size * (float(share) if platform in ("gpu", "cuda") else 1.0)


def _with(experiment: Experiment, policy: str) -> Experiment:
    return dataclasses.replace(experiment, execution=dataclasses.replace(experiment.execution, remat=policy))
