"""Standing of a process: its phase, how far it is, and where it waits. From all of them follows who is late."""

import dataclasses
import json
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from transformer.cluster.phases import Phase

_SHOWN = 4
"""Processes of which a line says where each is."""
_PHASES: tuple[Phase, ...] = ("start", "restore", "data", "compile", "step", "evaluation", "save", "exit")
_ORDER: dict[str, int] = {name: place for place, name in enumerate(_PHASES)}
"""What a run is in first, after the same number of updates."""

_counter: Callable[[], "Counter | None"] = lambda: None  # noqa: E731


class Counter(Protocol):
    """What counts a run's updates."""

    step: int


def count_updates(counter: Counter) -> None:
    """Makes `counter` tell the update of now, to whoever asks from whatever thread, while somebody keeps it."""
    global _counter
    _counter = weakref.ref(counter)


def update() -> int | None:
    """Returns the number of the update that the run is at; None outside of the updates."""
    counter = _counter()
    return None if counter is None else counter.step


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a process is."""

    process: int
    count: int
    """Number of processes."""
    host: str
    pid: int
    phase: str
    seconds: float
    """How long it has been in the phase."""
    limit: float | None
    """How long it may."""
    update: int | None
    """Number of the update; None outside of them."""
    waits: str | None
    """What it waits for the others in; None if it does not, or in a program of the devices."""
    at: str
    """The innermost place of its main thread outside of Python's library."""
    is_joint: bool
    """Whether that place is in JAX or Orbax, where the processes work together and wait for each other."""
    debugged: bool
    beat: int
    """Number of its signs of life."""

    @property
    def name(self) -> str:
        return f"process {self.process} of {self.count} on {self.host}"

    @property
    def name_and_phase(self) -> str:
        return f"{self.name}, last seen in {self.where},"

    @property
    def where(self) -> str:
        """Its phase, for people: `phase step (update 123)`."""
        return f"phase {self.phase}" + ("" if self.update is None else f" (update {self.update})")

    @property
    def position(self) -> tuple[int, int]:
        """How far it is: the larger the farther."""
        first, last = _ORDER["start"], _ORDER["restore"]
        if first <= _ORDER[self.phase] <= last:
            return -1, _ORDER[self.phase]
        # The phase of data counts the updates that were made, the later ones the one that is being made.
        return (self.update or 0) + (self.phase == "data"), _ORDER[self.phase]

    @classmethod
    def parsed(cls, text: str) -> "Standing":
        return cls(**json.loads(text))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Who is late, and the line that says so."""

    message: str
    late: Standing | None
    """The first of those that are late; None if nobody is later than the others."""
    waits_on: bool = False
    """Whether the late one has time left, or a debugger holds somebody."""

    def failure(self, own: Standing, exit_code: int) -> dict[str, Any]:
        """Returns the failure that all processes end with."""
        of = self.late or own
        place = {"process": of.process, "host": of.host, "phase": of.phase, "step": of.update}
        return {"message": self.message, "exit_code": exit_code, "at_once": True, **place}


def verdict(own: Standing, flag: str, answers: Mapping[int, Standing], last: Mapping[int, Standing]) -> Verdict:
    """Returns who is late, of processes one of which has passed a deadline.

    Args:
      own: the standing of the one that passed it.
      flag: the deadline's name.
      answers: process -> its standing of now; without those that gave no sign of life.
      last: process -> the newest standing that it told, if it did; `joining` has each tell one.
    """
    waited = f"{own.seconds:.0f} s, past {flag} {own.limit:g}" if own.limit else f"{own.seconds:.0f} s"
    silent = [index for index in range(own.count) if index not in answers and index != own.process]
    if any(standing.debugged for standing in answers.values()):
        return Verdict("a debugger holds a process", None, waits_on=True)
    if silent:
        return silent_verdict(own, silent, last, f"; {own.name} has been in {own.where} for {waited}")
    late = late_of([answers.get(index, own) for index in range(own.count)])
    if own.count == 1:
        return Verdict(f"{own.name} has been in {own.where} for {waited}: it is at {own.at}", own)
    if len(late) == own.count:
        message = (
            f"all {own.count} processes have been in {own.where} for {waited}, and none of them is behind: a device or "
            f"the network between them hangs; {_places(answers)}"
        )
        return Verdict(message, None)
    first = late[0]
    more = f", and so have {len(late) - 1} more" if len(late) > 1 else ""
    others = "all others wait" if len(late) == 1 else "the others wait"
    since = waited if first.process == own.process else f"{first.seconds:.0f} s"
    whose = "" if first.process == own.process else f" ({own.name} in {own.where}, for {waited})"
    message = f"{first.name} has been in {first.where} for {since}{more}: it is at {first.at}; {others}{whose}"
    in_time = first.process != own.process and first.seconds < (first.limit or float("inf"))
    return Verdict(message, first, waits_on=in_time)


def silent_verdict(own: Standing, silent: Sequence[int], last: Mapping[int, Standing], why: str) -> Verdict:
    """Returns a verdict on processes that give no sign of life.

    Args:
      own: the standing of the one that noticed.
      silent: their indices.
      last: process -> the newest standing that it told, if it did; `joining` has each tell one.
      why: the rest of the line.
    """
    more, verb = (f" and {len(silent) - 1} more", "give") if len(silent) > 1 else ("", "gives")
    first = last.get(silent[0])
    if first is None:  # a program joined its processes by JAX alone
        name, seen = f"process {silent[0]} of {own.count}", ""
        first = dataclasses.replace(own, process=silent[0], host="", pid=0, update=None, at="")
    else:
        name, seen = f"{first.name} (pid {first.pid})", f", last seen in {first.where}"
    message = f"{name}{more} {verb} no sign of life{seen}: stopped, or the machine or its network hangs{why}"
    return Verdict(message, first)


def late_of(standings: Sequence[Standing]) -> list[Standing]:
    """Returns those that the others wait for; all, if nothing tells them apart."""
    late = list(standings)
    for few in (_not_waiting, _least_far, _elsewhere):
        late = few(late) or late
    return late


def _places(answers: Mapping[int, Standing]) -> str:
    """Returns where the first few processes are."""
    places = [f"process {index} is at {standing.at}" for index, standing in sorted(answers.items())[:_SHOWN]]
    return ", ".join([*places, *(["..."] if len(answers) > _SHOWN else [])])


def _not_waiting(standings: Iterable[Standing]) -> list[Standing]:
    return [standing for standing in standings if standing.waits is None]


def _least_far(standings: Sequence[Standing]) -> list[Standing]:
    least = min(standing.position for standing in standings)
    return [standing for standing in standings if standing.position == least]


def _elsewhere(standings: Iterable[Standing]) -> list[Standing]:
    """Those that are not in joint work, as in a program of the devices, where the others wait."""
    return [standing for standing in standings if not standing.is_joint]
