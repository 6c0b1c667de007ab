"""Products: the FLOPs of a traced step, whatever devices it is compiled for, and of a compiled one.

Counted are matrix products, convolutions and attention's kernels, two FLOPs a multiply-add; loops by their lengths,
what rematerialisation computes again with the rest. XLA's own cost analysis counts a loop's body once, and for GPUs
there is none.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend import core

from transformer.parallel.hlo import Module

_FORWARD, _BACKWARD = 2, 5
"""Products of queries with keys or of their like in an attention kernel: the backward one computes the scores again
(Dao 2023, "FlashAttention-2", section 3.1)."""


class Products(NamedTuple):
    """FLOPs of a traced function, over all devices."""

    flops: float
    attention: float
    """The part of them that multiplies tokens with tokens in an attention kernel's own way."""
    counted: bool
    """Whether all of its loops tell how often they run; one that does not counts once."""


def products(jaxpr: Any) -> Products:
    """Returns the FLOPs of a traced function, such as `jax.jit(f).trace(x).jaxpr`."""
    flops, attention, counted = 0.0, 0.0, True
    for equation, times, known in _executed(getattr(jaxpr, "jaxpr", jaxpr), 1, True):
        amount = times * _flops(equation)
        flops += amount
        attention += amount * equation.primitive.name.startswith(_KERNEL)
        counted &= known
    return Products(flops, attention, counted)


_KERNEL = "dot_product_attention"


def _executed(jaxpr: Any, times: int, known: bool) -> Iterator[tuple[Any, int, bool]]:
    """Yields each equation, how often it is executed over all devices, and whether that is known."""
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        inner = [value for value in jax.tree.leaves(list(params.values()), is_leaf=_is_jaxpr) if _is_jaxpr(value)]
        if name.startswith(_KERNEL) or not inner:
            yield equation, times, known
            continue
        runs, certain = times, known
        if name == "scan":
            runs *= params["length"]
        elif name == "while":
            certain = False
        elif name == "shard_map":
            runs *= math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
        if name == "cond":  # one of the branches
            inner = [max(inner, key=lambda branch: products(branch).flops)]
        for part in inner:
            yield from _executed(getattr(part, "jaxpr", part), runs, certain)


def compiled_flops(text: str) -> float:
    """Returns the FLOPs of a compiled program's matrix products, over all devices.

    Those of a CPU's are instructions of their own, in place of calls of a library: what is counted is what runs.

    Args:
      text: the optimised program, `compiled.as_text()`.

    Raises:
      ValueError: a loop around a product does not tell how often it runs.
    """
    module, flops = Module(text), 0.0
    for execution in module.executions():
        instruction = execution.instruction
        if instruction.opcode != "dot":
            continue
        if not execution.counted:
            raise ValueError(f"{instruction.name} is in a loop that does not tell how often it runs")
        left = execution.neighbours[instruction.operands[0]].arrays[0]
        contracted = instruction.attributes.partition("lhs_contracting_dims={")[2].partition("}")[0]
        summed = math.prod(left.dims[int(axis)] for axis in contracted.split(",") if axis)
        flops += execution.times * 2.0 * summed * math.prod(instruction.arrays[0].dims)
    return flops * module.partitions


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def _flops(equation: Any) -> float:
    name, shapes = equation.primitive.name, [variable.aval.shape for variable in equation.invars]
    out: list[int] = list(equation.outvars[0].aval.shape) if equation.outvars else []
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return 2.0 * math.prod(out) * math.prod(shapes[0][axis] for axis in contracted)
    if name == "conv_general_dilated":
        output_axis = equation.params["dimension_numbers"].rhs_spec[0]
        return 2.0 * math.prod(out) * math.prod(shapes[1]) / shapes[1][output_axis]
    if name == "ragged_dot_general":  # each row is multiplied with one of the matrices
        (contracted, _), _ = equation.params["ragged_dot_dimension_numbers"].dot_dimension_numbers
        groups = equation.params["ragged_dot_dimension_numbers"].rhs_group_dimensions
        summed = math.prod(shapes[0][axis] for axis in contracted)
        return 2.0 * math.prod(out) * summed / (1 if groups else out[0])
    if name.startswith(_KERNEL):
        (rows, queries, heads, width), keys = shapes[0], shapes[1][1]
        return (_BACKWARD if "bwd" in name else _FORWARD) * 2.0 * rows * heads * queries * keys * width
    return 0.0
