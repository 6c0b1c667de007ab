"""Goodput: the share of a run's wall time that made steps which last.

Google calls it ML productivity goodput (Singh and Herrington 2024, "Introducing ML Productivity Goodput", and the
library ml-goodput-measurement): productive step time / wall time. Compiling, waiting for data, saving and the like are
not productive, nor are steps that a kill lost, since they are made again. The wall time here is that from the first
start of the run to its last sign of life, the time between its starts with it: their scheduling goodput and their
runtime goodput in one number. How fast a step is (their program goodput) is another matter: see MFU.

Each start of a run keeps a file of its own, `RUN/goodput/NUMBER.json`, written by `Ledger` (`ledger.py`). This module
reads them and adds them up: every second belongs to one category, so the shares sum to 1.
"""

import concurrent.futures
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from transformer.cluster.phases import PHASES

WORDS = {
    "step": "steps",
    "redone": "redone",
    "compile": "compiling",
    "data": "waiting for data",
    "save": "saving",
    "evaluation": "evaluating",
    "restore": "restoring",
    "start": "starting",
    "exit": "exiting",
    "down": "down",
}
"""Category of time -> what people read. `redone` are the seconds of steps that were lost and are made again; `down` are
those between the last sign of life of one start and the beginning of the next one's process."""
CATEGORIES = tuple(WORDS)
assert set(PHASES) | {"redone", "down"} == set(CATEGORIES)


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of a run, as its leading process recorded it."""

    number: int
    """1 for the run's first."""
    began: float
    """When its process began, in seconds of Unix time by its host's clock."""
    elapsed: float
    """Seconds from then to its last sign of life, by a clock that never jumps."""
    seconds: Mapping[str, float]
    """Phase -> seconds; they sum to `elapsed`."""
    first: int | None = None
    """Updates that were made before, in the state that it went on from; None: it did not come that far."""
    step: int = 0
    """Number of its last update."""
    saves: Sequence[tuple[int, float]] = ()
    """When it began to save: the update's number, and the seconds of steps until then."""
    host: str = ""
    processes: int = 1
    devices: int = 1
    remat: str = ""
    """What its steps computed again, a value of `Execution.remat`; empty of a start before this was written down."""
    ended: bool = False
    """Whether it came to an end of its own: not killed, and not going on."""

    @property
    def last_sign(self) -> float:
        """When it was last seen alive, in seconds of Unix time."""
        return self.began + self.elapsed

    def step_seconds(self, step: int) -> float:
        """Returns the seconds of steps it took to update number `step`: exact at a save, else in proportion."""
        total = self.seconds.get("step", 0.0)
        if self.first is None or step <= self.first:
            return 0.0
        if step > self.step:
            return total
        # Of two marks at a step the earlier holds: what comes after it belongs to the next step.
        marks = dict(sorted([(self.step, total), *self.saves, (self.first, 0.0)], reverse=True))
        steps = sorted(marks)
        return float(np.interp(step, steps, [marks[each] for each in steps]))

    def to_json(self) -> dict[str, Any]:
        """Returns the start as plain values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Part:
    """The time of one start, and the time before it in which none was alive."""

    start: Start
    seconds: Mapping[str, float]
    """Category -> seconds, of every category."""

    @property
    def wall(self) -> float:
        """Seconds of the start and of the time before it."""
        return math.fsum(self.seconds.values())


@dataclasses.dataclass(frozen=True)
class Account:
    """Where the wall time of a run went."""

    parts: Sequence[Part]

    @property
    def wall(self) -> float:
        """Seconds from the run's first start to its last sign of life."""
        return math.fsum(self.seconds.values())

    @property
    def seconds(self) -> dict[str, float]:
        """Category -> seconds, of every category."""
        return {name: math.fsum(part.seconds[name] for part in self.parts) for name in CATEGORIES}

    @property
    def shares(self) -> dict[str, float]:
        """Category -> share of the wall time; they sum to 1, unless there was no time."""
        wall = self.wall
        return {name: seconds / wall if wall else 0.0 for name, seconds in self.seconds.items()}

    @property
    def goodput(self) -> float:
        """Share of the wall time that made steps which last."""
        return self.shares["step"]

    def line(self) -> str:
        """Returns the account in a line for people."""
        seconds, count = self.seconds, len(self.parts)
        others = sorted((name for name in CATEGORIES if name != "step"), key=lambda name: -seconds[name])
        shown = [f"{WORDS[name]} {_round(seconds[name])} s" for name in others if seconds[name] >= 0.05]
        starts = f" in {count} starts" if count > 1 else ""
        head = f"goodput {self.goodput:.1%}: steps {_round(seconds['step'])} s of {_round(self.wall)} s{starts}"
        return "; ".join([head, ", ".join(shown)] if shown else [head])

    def scalars(self) -> dict[str, float]:
        """Returns the account for TensorBoard: the goodput, and each category's seconds so far."""
        return {"goodput/share": self.goodput} | {f"goodput/{name}": each for name, each in self.seconds.items()}


def account(starts: Sequence[Start]) -> Account:
    """Returns where the time went, of all starts of a run in their order.

    A start's steps are lost from where a later one went on. What is lost of the last start shows once another goes on.
    """
    parts: list[Part] = []
    kept: int | None = None  # the last update that was not made again; None: all last
    for start, before in reversed(list(zip(starts, [None, *starts], strict=False))):
        step = start.seconds.get("step", 0.0)
        lasting = step if kept is None else min(start.step_seconds(kept), step)
        # The clocks of two hosts may disagree: a start that seems to begin before the last one ended began at once.
        down = max(start.began - before.last_sign, 0.0) if before else 0.0
        changed = {"step": lasting, "redone": step - lasting, "down": down}
        parts.append(Part(start, dict.fromkeys(CATEGORIES, 0.0) | dict(start.seconds) | changed))
        if start.first is not None:
            kept = start.first if kept is None else min(kept, start.first)
    return Account(parts[::-1])


def read(folder: epath.Path) -> list[Start]:
    """Returns the starts that a run's folder `goodput` holds, in order; those of `damaged` files are left out."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:  # a store answers each in some 50 ms
        starts = pool.map(lambda number: _read(_place(folder, number)), _numbers(folder))
        return [start for start in starts if start is not None]


def damaged(folder: epath.Path, starts: Sequence[Start]) -> list[epath.Path]:
    """Returns the files of a run's folder `goodput` of which `read` made none of these starts."""
    return [_place(folder, number) for number in _numbers(folder) if number not in {start.number for start in starts}]


def new_place(folder: epath.Path) -> epath.Path:
    """Returns the file of the start that comes after those that have one, also a damaged one."""
    return _place(folder, 1 + max(_numbers(folder), default=0))


def _numbers(folder: epath.Path) -> list[int]:
    if not folder.exists():
        return []
    return sorted(int(path.stem) for path in folder.iterdir() if path.suffix == ".json" and path.stem.isdigit())


def _place(folder: epath.Path, number: int) -> epath.Path:
    return folder / f"{number}.json"


def _read(path: epath.Path) -> Start | None:
    """Returns the start that a file holds; None where a crash of the machine, or a person, damaged it."""
    try:
        record = json.loads(path.read_bytes())
        seconds = {name: _amount(record["seconds"].get(name, 0.0)) for name in PHASES}
        first = record["first"]
        return Start(
            number=int(path.stem),
            began=_amount(record["began"]),
            elapsed=math.fsum(seconds.values()),
            seconds=seconds,
            first=None if first is None else int(first),
            step=int(record["step"]),
            saves=[(int(step), _amount(spent)) for step, spent in record["saves"]],
            remat=str(record.get("remat", "")),
            **{name: type(Start.__dataclass_fields__[name].default)(record[name]) for name in _PLAIN},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


_PLAIN = ("host", "processes", "devices", "ended")


def _amount(value: Any) -> float:
    """Returns a number of seconds, not negative; raises ValueError for what is none."""
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError(value)
    return number


def _round(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.1f}"
