"""HLO: the text of a compiled program (`compiled.as_text()`), parsed into what it executes and how often.

A module is a list of computations, one of which is the entry. An instruction may call others: the body of a loop, a
fusion, the branches of a conditional. The format is XLA's own, and differs a little from backend to backend.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Array:
    """An array as a compiled program has it: one device's part."""

    dtype: str
    """As HLO spells it: f32, bf16, s32, pred, ..."""
    dims: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size, without a device's padding."""
        return -(-math.prod(self.dims) * _bits(self.dtype) // 8)

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    shape: str
    """Shape of its result, as text."""
    opcode: str
    inside: str
    """What is in its parentheses, as text: operands, a constant's value, a parameter's number."""
    attributes: str
    """What comes after them, as text."""

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """Its result: one array, or the leaves of a tuple."""
        return arrays_of(self.shape)

    @functools.cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of instructions of the same computation."""
        return tuple(re.findall(r"%([\w.\-]+)", self.inside))


@dataclasses.dataclass(frozen=True)
class Execution:
    """An instruction where a program executes it."""

    instruction: Instruction
    times: int
    """Product of the trip counts of the loops around it. A loop that does not tell its own counts once."""
    counted: bool
    """Whether all of these loops tell how often they run."""
    neighbours: dict[str, Instruction]
    """The computation that it stands in, by name."""
    callers: tuple[Instruction, ...]
    """The instructions that lead to it, from the entry on."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """What an instruction was compiled from."""

    operation: str = ""
    """JAX's path to the operation, such as `jit(step)/decoder/mlp/dot_general`; empty where it is not known."""
    source: str = ""
    """`file:line`; empty where it is not known."""


class Module:
    """A compiled program."""

    def __init__(self, text: str):
        """Parses the text of a program."""
        found = re.search(r"\bnum_partitions=(\d+)", text)
        self.partitions = int(found[1]) if found else 1
        """Devices that run the program together."""
        self._computations: dict[str, dict[str, Instruction]] = {}
        self._entry = ""
        self._tables: dict[str, dict[int, str]] = {}
        table, computation = None, {}
        for line in text.splitlines():
            if line in _TABLES:
                table = self._tables[line] = {}
            elif table is not None and (row := re.match(r"(\d+) (.*)", line)):
                table[int(row[1])] = row[2]
            elif line[:1] in ("%", "E") and line.endswith("{"):
                table, (is_entry, name) = None, _HEAD.match(line).groups()  # type: ignore[union-attr]
                computation = self._computations.setdefault(name, {})
                self._entry = name if is_entry else self._entry
            elif line.startswith("  ") and " = " in line:
                instruction = _instruction(line)
                computation[instruction.name] = instruction

    def executions(self) -> Iterator[Execution]:
        """Yields each instruction at each place from which it is executed."""
        yield from self._walk(self._entry, 1, True, ())

    def _walk(self, name: str, times: int, counted: bool, callers: tuple[Instruction, ...]) -> Iterator[Execution]:
        neighbours = self._computations.get(name, {})
        for instruction in neighbours.values():
            yield Execution(instruction, times, counted, neighbours, callers)
            chain = (*callers, instruction)
            if instruction.opcode == "while":
                trips = self._trips(instruction)
                body = _called("body", instruction)
                yield from self._walk(body, times * (trips or 1), counted and trips is not None, chain)
            else:
                for called in _called_once(instruction):
                    yield from self._walk(called, times, counted, chain)

    def _trips(self, loop: Instruction) -> int | None:
        """Returns how often a loop runs its body; None where its text does not say.

        Loops of CPUs and GPUs carry the count. Those of TPUs do not: a scan counts from 0 by 1, and the one integer
        that its condition knows is the limit.
        """
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        limits = {
            int(execution.instruction.inside)
            for execution in self._walk(_called("condition", loop), 1, True, ())
            if execution.instruction.opcode == "constant" and execution.instruction.arrays[0].dtype in ("s32", "u32")
        }
        return limits.pop() if len(limits) == 1 else None

    def origin(self, execution: Execution) -> Origin:
        """Returns what an instruction was compiled from or, where its text does not say, its fusion or its operands."""
        neighbours = execution.neighbours
        fusion = execution.callers[-1] if execution.callers and execution.callers[-1].opcode == "fusion" else None
        ahead, seen = [execution.instruction, *([fusion] if fusion else [])], {execution.instruction.name}
        while ahead:
            nearest = ahead.pop(0)
            origin = self._own_origin(nearest)
            if origin.operation or origin.source:
                return origin
            new = [name for name in dict.fromkeys(nearest.operands) if name in neighbours and name not in seen]
            ahead += [neighbours[name] for name in new]
            seen.update(new)
        return Origin()

    def _own_origin(self, instruction: Instruction) -> Origin:
        operation = re.search(r'op_name="([^"]*)"', instruction.attributes)
        if line := re.search(r'source_file="([^"]*)" source_line=(\d+)', instruction.attributes):
            source = f"{line[1]}:{line[2]}"
        elif frame := re.search(r"stack_frame_id=(\d+)", instruction.attributes):
            source = self._frame(int(frame[1]))
        else:
            source = ""
        return Origin(operation[1] if operation else "", source)

    def _frame(self, number: int) -> str:
        """Returns `file:line` of a frame of the tables that stand before the computations."""
        frame = _numbers(self._tables.get("StackFrames", {}).get(number, ""))
        location = _numbers(self._tables.get("FileLocations", {}).get(frame.get("file_location_id", 0), ""))
        file = self._tables.get("FileNames", {}).get(location.get("file_name_id", 0), "").strip('"')
        return f"{file}:{location['line']}" if file and "line" in location else ""


_TABLES = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+)")
_PARENTHESIS = re.compile(r"[()]")
_REDUCES = ("all-reduce", "reduce-scatter", "reduce", "reduce-window", "scatter", "sort", "select-and-scatter", "map")
"""What calls a computation for pairs of scalars, which executes nothing of interest."""


def arrays_of(shape: str) -> tuple[Array, ...]:
    """Returns the arrays of an HLO shape, as `(f32[8,4]{1,0}, s32[])`: the leaves of nested tuples, in order."""
    return tuple(
        Array(dtype, tuple(int(dim.removeprefix("<=")) for dim in dims.split(",") if dim))
        for dtype, dims in re.findall(r"\b([a-z]\w*)\[([\d,<=]*)\]", shape)
    )


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.match(r"[a-z]+(\d+)", dtype)
    if digits is None:
        raise ValueError(f"an HLO type that is not known: {dtype}")
    return int(digits[1])


_BITS = {"pred": 8, "token": 0, "opaque": 0}


def _instruction(line: str) -> Instruction:
    name, _, right = line.strip().removeprefix("ROOT ").partition(" = ")
    end = _closing(right, 0) + 1 if right.startswith("(") else right.index(" ")
    shape, right = right[:end], right[end:].lstrip()
    opening = right.index("(")
    closing = _closing(right, opening)
    return Instruction(name.lstrip("%"), shape, right[:opening], right[opening + 1 : closing], right[closing + 1 :])


def _closing(text: str, opening: int) -> int:
    depth = 0
    for found in _PARENTHESIS.finditer(text, opening):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    raise ValueError(f"no closing parenthesis in {text[:80]!r}")


def _called(key: str, instruction: Instruction) -> str:
    found = re.search(rf"\b{key}=%?([\w.\-]+)", instruction.attributes)
    if found is None:
        raise ValueError(f"{instruction.opcode} {instruction.name} has no {key}")
    return found[1]


def _called_once(instruction: Instruction) -> list[str]:
    """Returns the computations that an instruction runs once when it runs; of a conditional, all its branches."""
    if instruction.opcode.removesuffix("-start") in _REDUCES:
        return []
    keys = "calls|to_apply|true_computation|false_computation"
    single = re.findall(rf"\b(?:{keys})=%?([\w.\-]+)", instruction.attributes)
    several = re.findall(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}", instruction.attributes)
    return single + [name.strip().lstrip("%") for names in several for name in names.split(",") if name.strip()]


def _numbers(row: str) -> dict[str, int]:
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", row)}
