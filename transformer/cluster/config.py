"""How the processes of a job wait for each other, and how long."""

import dataclasses

from transformer import checks


@dataclasses.dataclass(frozen=True)
class Deadlines:
    """Seconds that a run may stay in one phase without progress; None: for ever.

    A run that is past one is lost time: it says who is late, and ends with exit code 124. Nothing ends while a debugger
    holds a process.
    """

    enabled: bool = True
    """Whether there are deadlines at all."""
    start: float | None = 1800.0
    """From the first process to the last: the machines of a job may fetch an image, and import from a slow disk."""
    prepare: float | None = 24 * 3600.0
    """Reading a corpus and storing its tokens, which one process may do for hours while the others wait."""
    restore: float | None = 3600.0
    """Reading a checkpoint: a terabyte at 300 MB/s."""
    compile: float | None = 3600.0
    """The first update, which is compiled; also other programs that an update in trouble compiles."""
    data: float | None = 1800.0
    """One batch. The first one starts the workers, and a store may be asked again for many minutes."""
    step: float | None = 600.0
    """One update. The slowest of useful ones takes a minute or two."""
    save: float | None = 3600.0
    """What the training waits for of a save: at most the writing of the one before. Waiting for room on a full disk
    counts anew with each try."""
    evaluation: float | None = 1800.0
    """One batch of an evaluation; the first one is compiled."""
    exit: float | None = 1800.0
    """From the last save to the end of the last process: the leading one evaluates, and samples from the model."""
    silence: float | None = 60.0
    """No sign of life from a process of several, in whatever phase: it is stopped, or its machine hangs. JAX itself
    ends all processes after 100, and cannot say why."""

    def __post_init__(self) -> None:
        checks.above(self, 0, *(field.name for field in dataclasses.fields(self) if field.name != "enabled"))


@dataclasses.dataclass(frozen=True)
class ClusterConfig:
    """The processes of a run. It may change whenever the run goes on."""

    deadlines: Deadlines = Deadlines()
    """How long to wait for whom."""
