"""Checkpoints of a run removed by name."""

from collections.abc import Collection

from etils import epath

from transformer.checkpoint.reading import absolute, steps
from transformer.checkpoint.seal import is_local
from transformer.errors import UserError

REMOVED = ".removed"
"""What a checkpoint's name gets while it is removed."""


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
    if is_local(checkpoint):
        checkpoint = checkpoint.rename(checkpoint.parent / f"{checkpoint.name}{REMOVED}")
    else:
        (checkpoint / "commit_success.txt").unlink()
    checkpoint.rmtree()
