"""A study's runs as Slurm jobs: one array of the runs that start by themselves, then one of the branches."""

import dataclasses
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from transformer.errors import UserError
from transformer.scaling.studies.study import Study
from transformer.sweeps.cells import outcome
from transformer.sweeps.plan import Sweep

_SCRIPT = """#!/bin/bash
# One run of the study, by the number of the array's task.
names=({names})
exec {command} --only "${{names[$SLURM_ARRAY_TASK_ID]}}"
"""


@dataclasses.dataclass(frozen=True)
class Wave:
    """Runs that may start at the same time."""

    script: Path
    """Makes the run of an array's task."""
    runs: int
    name: str
    """The job's name."""
    log: Path
    """File of each task's output, in Slurm's notation."""


def waves(study: Study | Sweep, folder: Path, command: Sequence[str]) -> list[Wave]:
    """Writes STUDY/slurm/WAVE.sh for the runs that have not ended; returns them in the order of their submission.

    Args:
      study: the study in the folder, or the sweep.
      folder: STUDY, as every node sees it.
      command: the command that `--only RUN` is added to.
    """
    waiting = [cell for cell in study.cells if not outcome(folder, cell).ended]
    parts = [[cell for cell in waiting if (cell.trunk is not None) == branch] for branch in (False, True)]
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "slurm").mkdir(exist_ok=True)
    written = []
    for number, cells in enumerate(parts):
        if cells:
            path = folder / "slurm" / f"{number}.sh"
            names = " ".join(shlex.quote(cell.name) for cell in cells)
            path.write_text(_SCRIPT.format(names=names, command=shlex.join(command)))
            written.append(Wave(path, len(cells), folder.name, folder / "logs" / "slurm-%A-%a.log"))
    return written


def submit(waves: Sequence[Wave], template: Path, jobs: int | None) -> list[str]:
    """Submits waves as arrays, each to start when the one before has ended, successfully or not; returns job numbers.

    A run that is told to stop before its time is up saves, and is put back into the queue, as the template has it.

    Args:
      waves: the arrays.
      template: the batch script, tools/launch/slurm.sbatch, whose arguments are a command.
      jobs: runs at a time; None: as many as Slurm gives.

    Raises:
      UserError: there is no Slurm here, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise UserError("--slurm: there is no sbatch here; run this on a cluster's login node, or leave --slurm out")
    numbers: list[str] = []
    for wave in waves:
        most = "" if jobs is None else f"%{jobs}"
        options = [f"--array=0-{wave.runs - 1}{most}", f"--job-name={wave.name}", f"--output={wave.log}", "--nodes=1"]
        if numbers:
            options.append(f"--dependency=afterany:{numbers[-1]}")
        command = ["sbatch", "--parsable", *options, str(template), "bash", str(wave.script)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"sbatch {template}: {' '.join(done.stderr.split())}")
        numbers.append(done.stdout.strip().split(";")[0])
    return numbers
