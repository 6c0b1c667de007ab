"""Which local checkpoints are a run's own: `RUN/local.json`, which lies beside its durable ones.

Local checkpoints lie where the run folder's lock does not reach: on the disks of nodes, where other runs, and earlier
starts of this one, have left theirs. So each start of a run gets a token, which its local checkpoints bear. They count
in that start and, as far as the next start went on from one of them, in the next; whatever a start did not go on from
is a branch that was cut, and never counts again, even when its node comes back.
"""

import dataclasses
import json
import secrets
from typing import Any

from etils import epath

from transformer.checkpoint.files import to_json, write_atomically
from transformer.paths import errors_at

NAME = "local.json"


@dataclasses.dataclass(frozen=True)
class Lineage:
    """The tokens of a run, and of a start of it."""

    run: str
    """Names the run among all that keep local checkpoints on a disk."""
    start: str
    origin: tuple[str, int] | None = None
    """The local checkpoint that this start went on from: the token of the start that saved it, and its step."""

    def holds(self, start: Any, step: int) -> bool:
        """Whether a checkpoint counts that this start of the run saved at this step."""
        return start == self.start or (start, step) == self.origin


def read(run: epath.Path) -> Lineage | None:
    """Returns what a run folder says; None: it says nothing, or it is a copy of another run's."""
    try:
        record = json.loads((run / NAME).read_bytes())
        origin = record["origin"]
        lineage = Lineage(record["run"], record["start"], None if origin is None else (origin["start"], origin["step"]))
        return lineage if record["folder"] == str(run) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def write(run: epath.Path, lineage: Lineage) -> None:
    """Records a start, before it trains.

    Raises:
      UserError: the disk is full, or the file cannot be written.
    """
    origin = None if lineage.origin is None else {"start": lineage.origin[0], "step": lineage.origin[1]}
    record = {"folder": str(run), "run": lineage.run, "start": lineage.start, "origin": origin}
    with errors_at(str(run)):
        write_atomically(run / NAME, to_json(record))


def new() -> Lineage:
    """Returns the lineage of a run that has none."""
    return Lineage(token(), token())


def token() -> str:
    """Returns a name that no run and no start had before."""
    return secrets.token_hex(8)


def forget(run: epath.Path) -> None:
    """Cuts off all local checkpoints of a run: a start without them goes on from a durable one."""
    if (run / NAME).exists():
        (run / NAME).unlink()
