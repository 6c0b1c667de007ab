"""Sweep: makes a study's runs, several at a time; a run that fails is named, and the others go on."""

from collections.abc import Callable, Sequence

from etils import epath

from transformer.scaling.studies.study import Cell, Study
from transformer.sweeps.runner import CellProgress, run_cells


def sweep(
    study: Study,
    folder: epath.PathLike,
    program: Sequence[str],
    *,
    shares: Sequence[set[int] | None] = (None,),
    show: Callable[[list[CellProgress[Cell]]], None] = lambda _: None,
    poll: float = 1.0,
) -> list[CellProgress[Cell]]:
    """Makes all runs of a study that have not ended, as `run_cells` does; a run that failed before is tried again."""
    resume = f"python tools/scaling.py run {folder}"
    return run_cells(study.cells, folder, program, resume=resume, shares=shares, show=show, poll=poll)
