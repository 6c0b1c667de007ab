"""When to save, and what to keep."""

import dataclasses
import signal
from typing import Literal

from transformer import checks


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save and what to keep."""

    every: int = 500
    """Updates between saves; the end of the run and an interruption always save."""
    every_minutes: float | None = None
    """Minutes between saves, besides: whichever comes first."""
    at: tuple[int, ...] = ()
    """Updates to save after besides; these checkpoints are kept for good."""
    keep: int = 2
    """The newest checkpoints to keep."""
    keep_every: int | None = None
    """Keep besides, for good, the checkpoints whose step this divides."""
    keep_best: int = 1
    """Checkpoints to keep besides, by `best`."""
    best: str = "eval_loss"
    """The figure of an evaluation that tells which checkpoint is best, as metrics.jsonl names it."""
    best_is: Literal["lowest", "highest"] = "lowest"
    """Which values of `best` are good."""
    fallback: bool = False
    """If the newest checkpoint is damaged, set it aside and go on from the one before it."""
    signal: str | None = None
    """A signal besides SIGINT and SIGTERM that means: save and leave. Slurm's option signal=USR1@120 sends one two
    minutes before a job's end."""
    local_dir: str | None = None
    """A folder on each node's own disk, the same on all nodes, for checkpoints between those: fast to write and to
    restore. They are gone with the node; a start goes on from one that is newer if all processes still have theirs."""
    local_every_minutes: float | None = 5.0
    """Minutes between saves, of either kind, after which one goes to `local_dir`."""
    local_every: int | None = None
    """Updates between saves to `local_dir`, besides: whichever comes first."""
    mtbf_hours: float | None = None
    """Mean time between failures of all the machines together. Given that, the run's end says how often to save."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "every", "keep")
        checks.at_least(self, 0, "keep_best")
        checks.above(self, 0, "every_minutes", "keep_every", "mtbf_hours", "local_every_minutes", "local_every")
        checks.require(self, self.local_dir != "", "`local_dir` is empty: name a folder on each node's own disk")
        known = self.signal is None or bool(self.signals)
        checks.require(self, known, f"`signal` {self.signal}: no such signal; say USR1, for one")

    @property
    def signals(self) -> list[int]:
        """The number of `signal`, which may be named as SIGUSR1 or USR1; none if this system has none of that name."""
        known = signal.Signals.__members__
        return [int(known[name]) for name in (f"{self.signal}", f"SIG{self.signal}") if name in known]
