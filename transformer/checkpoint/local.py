"""Local checkpoints: on the disks of the nodes that train, beside the durable ones that all nodes share.

Each process writes what its own devices hold to its own disk (`local_folder`). A step counts once every process has it
whole; of several starts of a run, those that `lineage` tells. One is kept, the newest, until a durable checkpoint is as
new.

They are for the same run on the same mesh and the same number of processes, each of which finds its own files again.
Where that is not so, the durable checkpoint, which restores anywhere, is what a run goes on from.

Why not Orbax (0.12.8), which saves the durable ones:

- `experimental.emergency.CheckpointManager` wants two replicas of the model, each on nodes of its own (slices), for one
  to read from another. Most runs are one replica. `ReplicatorCheckpointManager` wants Google's replicator on each node.
  Both save in Orbax's older interface.
- `save_checkpointables` with `primary_host=None` refuses a path that is not the same on all processes, so that two
  processes of one node would write to one folder, and refuses arrays of one process among several. It waits for the
  other processes at barriers, numbered by a counter of all operations: a save that fails on one disk alone would make
  the number of the next durable save differ.

Here the processes meet once a save, in the background, when each has written or failed, and in a restore.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from etils import epath

from transformer.checkpoint import lineage, shards
from transformer.checkpoint.halting import PATIENCE
from transformer.checkpoint.lineage import Lineage
from transformer.checkpoint.local_folder import LocalFolder, Manifest, manifest_of
from transformer.checkpoint.reading import absolute, root_cause
from transformer.checkpoint.saved import Saved, next_outcome
from transformer.checkpoint.seal import is_local
from transformer.cluster.agreement import attributed, exchange, from_lead, lead_does, own_index, together
from transformer.errors import UserError
from transformer.paths import check_folder


@dataclasses.dataclass(frozen=True)
class Restored:
    """A state that was restored from local checkpoints."""

    step: int
    params: Any
    opt_state: Any
    evaluated: bool
    """Whether it had been evaluated when it was saved."""
    start: str
    """Token of the start that saved it."""
    seconds: float


def check_place(place: str, run: epath.PathLike) -> None:
    """Raises UserError, on all processes, where a folder of local checkpoints cannot be made on one of them, or lies
    where the durable ones are.
    """
    with together("looking at the folder of local checkpoints"):
        if not is_local(epath.Path(place)):
            raise UserError(f"--checkpoint.local-dir {place}: name a folder on each node's own disk, no object store")
        if Path(absolute(place)).resolve().is_relative_to(Path(absolute(run)).resolve()):
            raise UserError(
                f"--checkpoint.local-dir {place} is in the run folder, with the durable checkpoints: name a folder on "
                "each node's own disk"
            )
        check_folder(place)


class LocalCheckpoints:
    """The local checkpoints of one start of a run. A context manager: leaving it waits for the save under way.

    All processes must call `restore`, `begin` and `save` in the same places. No failure of a save is raised.

    Args:
      place: LOCAL_DIR.
      run: the run folder.
      architecture: as `architecture.json` holds it.
      begun: whether the run has begun before; of one that has not, no local checkpoint counts.
    """

    def __init__(self, place: str, run: epath.PathLike, architecture: Mapping[str, Any], *, begun: bool):
        self._run, self._architecture, self._begun = absolute(run), architecture, begun
        self._lineage = _agreed_lineage(self._run)
        folder = Path(absolute(place)) / self._lineage.run
        self._folder = LocalFolder(folder, own_index(), jax.process_count())
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="local checkpoint")
        self._saving: collections.deque[Future[Saved]] = collections.deque()
        self._newest: Future[Saved] | None = None

    def __enter__(self) -> "LocalCheckpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        self._worker.shutdown()
        self._folder.close()

    def restore(self, after: int, report: Callable[[str], None], *, params: Any, opt_state: Any) -> Restored | None:
        """Returns the newest state that all processes hold; None: there is none newer than step `after`.

        What some hold and cannot be used is reported.

        Args:
          after: the newest durable checkpoint's step.
          report: called with a line.
          params: the tree of ShapeDtypeStructs with today's shardings.
          opt_state: likewise.
        """
        began = time.perf_counter()
        abstract = {"params": params, "opt_state": opt_state}
        manifests, reasons = {}, {}
        if self._begun:
            manifests, reasons = self._folder.usable(after, self._lineage, manifest_of(abstract, self._architecture))
        answers = exchange("the local checkpoints", {"usable": sorted(manifests), "reasons": [*reasons.items()]})
        for step in sorted(set.intersection(*({*answer["usable"]} for answer in answers)), reverse=True):
            manifest = manifests[step]
            trees = self._read_by_all(manifest, abstract, report)
            if trees is not None:
                seconds = time.perf_counter() - began
                return Restored(
                    step, **trees, evaluated=manifest["evaluated"], start=manifest["start"], seconds=seconds
                )
        if why := _why_none([(answer["usable"], dict(answer["reasons"])) for answer in answers]):
            report(f"local checkpoints are not used: {why}")
        return None

    def begin(self, restored: Restored | None) -> None:
        """Records that this start goes on from a local checkpoint, or from none; and removes what counts no more.

        Raises:
          UserError: the run folder cannot be written to.
        """
        origin = None if restored is None else (restored.start, restored.step)
        start = from_lead("the token of this start", lineage.token())
        self._lineage = Lineage(self._lineage.run, start, origin)
        lead_does("recording this start", lambda: lineage.write(self._run, self._lineage))
        self._worker.submit(self._folder.sweep, self._lineage)

    @property
    def busy(self) -> bool:
        """Whether a save is under way; processes learn at different times that one has ended."""
        return self._newest is not None and not self._newest.done()

    def save(self, step: int, *, params: Any, opt_state: Any, evaluated: bool) -> None:
        """Starts saving; returns once the arrays are copied from the devices. `outcome` tells how it went.

        Args:
          step: the checkpoint's name.
          params: the weights' tree.
          opt_state: the tree of all other arrays.
          evaluated: whether there was an evaluation at this step.
        """
        if self._newest is not None:
            self._newest.result()  # the host may have no room for two copies
        began = time.perf_counter()
        trees = {"params": params, "opt_state": opt_state}
        manifest: Manifest = {"step": step, "start": self._lineage.start, "evaluated": evaluated}
        parts, error = {}, None
        try:
            manifest |= manifest_of(trees, self._architecture)
            parts = {name: shards.copied(tree) for name, tree in trees.items()}
        except Exception as failed:  # whatever it is, the training need not end for it
            error = failed
        blocked = time.perf_counter() - began
        self._newest = self._worker.submit(self._complete, manifest, parts, error, began, blocked)
        self._saving.append(self._newest)

    def outcome(self, *, wait: bool = False) -> Saved | None:
        """Returns how the oldest save ended that was not asked for yet; None if it has not ended, or there is none."""
        return next_outcome(self._saving, wait=wait)

    def drop(self, up_to: int) -> None:
        """Removes, in the background, what is no newer than a durable checkpoint."""
        self._worker.submit(self._folder.remove, lambda step: step <= up_to)

    def _complete(
        self, manifest: Manifest, parts: dict[str, Any], error: Exception | None, began: float, blocked: float
    ) -> Saved:
        """Writes this process's parts, and hears how the others did. In the background; raises nothing."""
        step, size, own = manifest["step"], 0, None
        try:
            if error is not None:
                raise error
            size = self._folder.write(manifest, parts)
        except Exception as failed:
            own = root_cause(failed)
        parts.clear()  # the host's memory, while the others write theirs
        try:
            failure = _first(exchange("a local checkpoint", own, deadline=PATIENCE))
        except Exception as lost:  # of a process that is gone; the next start will see whether all have this step
            return Saved(step, blocked, failure=root_cause(lost))
        self._folder.remove((lambda other: other == step) if failure else (lambda other: other < step))
        return Saved(step, blocked, time.perf_counter() - began, size, failure)

    def _read_by_all(
        self, manifest: Manifest, abstract: Mapping[str, Any], report: Callable[[str], None]
    ) -> dict[str, Any] | None:
        """Returns a checkpoint's trees; None, after a report: one process cannot read its own."""
        trees, failure = None, None
        try:
            trees = self._folder.read(manifest, abstract)
        except Exception as error:  # whatever is wrong with it, there is another
            failure = root_cause(error)
        failure = _first(exchange("reading a local checkpoint", failure))
        if failure is None:
            return trees
        report(f"the local checkpoint of step {manifest['step']:,} is not used: {failure}")
        return None


def _agreed_lineage(run: epath.Path) -> Lineage:
    """Returns the lineage that the leading process reads; a new one where there is none."""
    read = lambda: dataclasses.asdict(lineage.read(run) or lineage.new())  # noqa: E731
    record = lead_does("reading which local checkpoints count", read)
    origin = record["origin"]
    return Lineage(record["run"], record["start"], None if origin is None else (origin[0], origin[1]))


def _first(failures: list[str | None]) -> str | None:
    """Returns the first process's failure, for people."""
    for index, failure in enumerate(failures):
        if failure is not None:
            return attributed(failure, index)
    return None


def _why_none(answers: list[tuple[list[int], dict[int, str]]]) -> str | None:
    """Returns why the newest step that some process has, all do not have; None: none has any, or all have it."""
    newest = max((step for usable, reasons in answers for step in (*usable, *reasons)), default=None)
    for index, (usable, reasons) in enumerate(answers):
        if newest is not None and newest not in usable:
            return attributed(f"step {newest:,}: {reasons.get(newest, 'it is not there')}", index)
    return None
