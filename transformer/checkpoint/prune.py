"""Checkpoints of a run removed: those that a person names, and what a failure or a kill left half written."""

import contextlib
import shutil
import time
from collections.abc import Collection

from etils import epath

from transformer.checkpoint.reading import absolute, steps
from transformer.checkpoint.seal import is_local
from transformer.errors import UserError

REMOVED = ".removed"
"""What a checkpoint's name gets while it is removed."""
UNFINISHED = ".orbax-checkpoint-tmp"
"""What a local checkpoint's name has while it is written."""
_TRIES = 100
"""Turns at removing what may still be written."""
_PAUSE = 0.1
"""Seconds between turns. A folder that stays gone over two pauses is gone."""


def choose(run: epath.PathLike, *, keep: Collection[int], drop: Collection[int]) -> list[epath.Path]:
    """Returns the checkpoints of a run to remove: all but `keep` and the newest, or `drop` and no other.

    Args:
      run: the run folder.
      keep: steps; the newest stays too.
      drop: steps; the newest goes only by being named here.

    Raises:
      UserError: both or neither are given, an unknown step, or nothing would be left.
    """
    if bool(keep) == bool(drop):
        raise UserError("give either --keep STEPS or --drop STEPS")
    folder = absolute(run) / "checkpoints"
    there = steps(folder)
    if not there:
        raise UserError(f"{absolute(run)}: no checkpoint here (a run keeps them in {folder})")
    if unknown := sorted({*keep, *drop} - {*there}):
        raise UserError(f"{folder} has no step {', '.join(map(str, unknown))}; it has {', '.join(map(str, there))}")
    chosen = [step for step in there if step in drop or (keep and step not in keep and step != there[-1])]
    if len(chosen) == len(there):
        raise UserError(f"{folder}: no checkpoint would be left; to remove a run, remove its folder")
    return [folder / str(step) for step in chosen]


def remove(checkpoint: epath.Path) -> None:
    """Removes a checkpoint: it is out of sight at once, so that a kill leaves none that is half there."""
    _hidden(checkpoint).rmtree()


def sweep(folder: epath.Path, *, but: Collection[int] = ()) -> None:
    """Removes what a kill or a failure left of saves and removals, and raises nothing: what it cannot remove now, it
    can the next time.

    Args:
      folder: a run's checkpoints.
      but: steps that are being saved.
    """
    with contextlib.suppress(Exception):  # no error of a store, of which each has its own, is worth a run
        complete = steps(folder)
        for path in list(folder.iterdir()) if folder.exists() else ():
            step = path.name.partition(".")[0]
            halfway = path.name.endswith(REMOVED) or UNFINISHED in path.name
            if step.isdigit() and int(step) in but:
                continue
            if halfway or (path.name.isdigit() and int(path.name) not in complete):
                discard(path)


def discard(path: epath.Path) -> None:
    """Removes a folder that something may still be written to; raises nothing, and may leave it to the next sweep."""
    hidden = [path] if path.name.endswith(REMOVED) else []
    gone = 0
    for _ in range(_TRIES):
        with contextlib.suppress(Exception):  # each store has its own
            if path not in hidden and path.exists():
                hidden.append(_hidden(path))
                gone = 0
        for place in list(hidden):
            with contextlib.suppress(Exception):  # something may still be written there
                shutil.rmtree(place) if is_local(place) else place.rmtree()
            with contextlib.suppress(Exception):
                if not place.exists():
                    hidden.remove(place)
        gone = 0 if hidden else gone + 1
        if gone > 2:
            return
        time.sleep(_PAUSE)


def _hidden(checkpoint: epath.Path) -> epath.Path:
    """Takes from a checkpoint what makes it count; returns where it lies then."""
    if not is_local(checkpoint):
        (checkpoint / "commit_success.txt").unlink(missing_ok=True)
        return checkpoint
    number, hidden = 1, checkpoint.parent / f"{checkpoint.name}{REMOVED}"
    while hidden.exists():  # of an earlier removal, which was cut short
        number += 1
        hidden = checkpoint.parent / f"{checkpoint.name}-{number}{REMOVED}"
    return checkpoint.rename(hidden)
