"""Collectives: what the devices of a compiled step send each other.

Three of XLA's habits make a naive reader wrong. The results of an asynchronous start are tuples of operands, results
and semaphores, and one collective may have a dozen operands: bytes are looked up where the operands are defined. A TPU
writes a reduce-scatter as an all-reduce in a fusion that keeps one part: it is counted as a reduce-scatter. And where
a TPU runs a collective beside computation, it stands in the fusion that starts it, in those that it runs beside and in
the one that ends it: only the first counts. A gather or scatter that the compiler has turned into an all-reduce of the
whole array is counted as what it is, an all-reduce.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal, get_args

from transformer.parallel.hlo import Array, Execution, Instruction, Module
from transformer.parallel.replica_groups import axes_of, groups_of

Kind = Literal[
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program."""

    kind: Kind
    axes: tuple[str, ...]
    """Mesh axes along which it sends; empty where every device sends to itself."""
    partial: bool
    """Whether a group is only a part of the devices along these axes; never said of a permutation."""
    group: int
    """Devices of a group; of a permutation, 2."""
    times: int
    """How often a step executes it: the product of the trip counts of the loops around it."""
    counted: bool
    """Whether all of these loops tell how often they run; one that does not counts once."""
    arrays: tuple[Array, ...]
    """The whole arrays on one device: what an all-gather leaves, what the others take."""
    operation: str
    """JAX's path to the operation that it comes from, or that made what it sends; may be empty."""
    source: str
    """`file:line` of that operation; may be empty."""

    @property
    def payload(self) -> int:
        """Bytes of `arrays`, of one execution."""
        return sum(array.bytes for array in self.arrays)

    @property
    def sent(self) -> float:
        """Bytes that one device sends by a ring, in one execution."""
        n = self.group
        factors = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0, "collective-broadcast": 1.0}
        return self.payload * factors.get(self.kind, (n - 1) / n)


def read(text: str, mesh_shape: Mapping[str, int]) -> list[Collective]:
    """Returns the collectives of a compiled program, in the order of its text.

    Args:
      text: the optimised program, `compiled.as_text()`.
      mesh_shape: mesh axis -> devices, in the order of the mesh that it was compiled for.

    Raises:
      ValueError: the text has a notation that is not known, or is of another number of devices.
    """
    module = Module(text)
    devices = math.prod(mesh_shape.values())
    if module.partitions != devices:
        raise ValueError(f"a program for {module.partitions} devices, and a mesh of {devices}")
    return [
        _collective(module, kind, execution, mesh_shape)
        for execution in module.executions()
        if (kind := _kind(execution.instruction)) and not any(map(_goes_on, execution.callers))
    ]


def _kind(instruction: Instruction) -> Kind | None:
    name = instruction.opcode.removesuffix("-start")
    return next((kind for kind in KINDS if kind == name), None)


def _goes_on(caller: Instruction) -> bool:
    """Whether this is a TPU's fusion in which a collective that another one began goes on, or ends."""
    return caller.name.startswith("async-collective-done") or "calls=%async_collective_fusion" in caller.attributes


def _collective(module: Module, kind: Kind, execution: Execution, mesh_shape: Mapping[str, int]) -> Collective:
    instruction = execution.instruction
    groups = groups_of(instruction.attributes, module.partitions)
    size = max(len(group) for group in groups)
    operands = [execution.neighbours[name] for name in instruction.operands]
    if kind == "collective-permute" and _in_place(operands):
        operands = operands[:1]
    arrays = tuple(array for operand in operands for array in operand.arrays)
    if kind == "all-gather":
        arrays = tuple(_gathered(array, instruction, size) for array in arrays)
    if kind == "all-reduce" and _keeps_a_part(execution, arrays, size):
        kind = "reduce-scatter"
    axes = axes_of(groups, mesh_shape)
    origin = module.origin(execution)
    return Collective(
        kind=kind,
        axes=axes,
        partial=kind != "collective-permute" and size < math.prod(mesh_shape[axis] for axis in axes),
        group=size,
        times=execution.times,
        counted=execution.counted,
        arrays=arrays,
        operation=origin.operation,
        source=origin.source,
    )


def _gathered(array: Array, instruction: Instruction, size: int) -> Array:
    """Returns what a gather makes of a part."""
    attributes = instruction.attributes
    dimension = int(attributes.partition("dimensions={")[2].partition("}")[0])
    dims = [dim * size if place == dimension else dim for place, dim in enumerate(array.dims)]
    return Array(array.dtype, tuple(dims))


def _in_place(operands: list[Instruction]) -> bool:
    """Whether a permutation has, beside what it sends, the buffer that it writes to, and offsets into both (TPUs)."""
    return len(operands) == 4 and all(not array.dims for operand in operands[2:] for array in operand.arrays)


def _keeps_a_part(execution: Execution, arrays: tuple[Array, ...], size: int) -> bool:
    caller = execution.callers[-1] if execution.callers else None
    if caller is None or caller.opcode != "fusion":
        return False
    return sum(array.bytes for array in caller.arrays) * size == sum(array.bytes for array in arrays)
