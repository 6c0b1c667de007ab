"""A study's runs as Slurm jobs: one array of the runs that start by themselves, then one of the branches."""

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
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{most}
#SBATCH --output="{folder}/logs/slurm-%A-%a.log"
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
names=({names})
{command} --only "${{names[$SLURM_ARRAY_TASK_ID]}}" &
child=$!
trap 'kill -TERM $child' TERM
wait $child; code=$?
test $code -le 128 || {{ wait $child; code=$?; }}  # the wait that the signal ended
test $code -ne 75 || exec scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
exit $code
"""


def scripts(study: Study | Sweep, folder: Path, command: Sequence[str], jobs: int | None) -> list[Path]:
    """Writes STUDY/slurm/WAVE.sh for the runs that have not ended; returns them in the order of their submission.

    A run that is told to stop two minutes before its time is up saves, and is put back into the queue.

    Args:
      study: the study in the folder, or the sweep.
      folder: STUDY, as every node sees it.
      command: the command that `--only RUN` is added to.
      jobs: runs at a time; None: as many as Slurm gives.
    """
    waiting = [cell for cell in study.cells if not outcome(folder, cell).ended]
    waves = [[cell for cell in waiting if (cell.trunk is not None) == branch] for branch in (False, True)]
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "slurm").mkdir(exist_ok=True)
    paths = []
    for number, wave in enumerate(waves):
        if wave:
            path = folder / "slurm" / f"{number}.sh"
            content = _SCRIPT.format(
                name=shlex.quote(folder.name),
                last=len(wave) - 1,
                most="" if jobs is None else f"%{jobs}",
                folder=folder,
                names=" ".join(shlex.quote(cell.name) for cell in wave),
                command=shlex.join(command),
            )
            path.write_text(content)
            paths.append(path)
    return paths


def submit(paths: Sequence[Path]) -> list[str]:
    """Submits scripts, each to start when the one before has ended, successfully or not; returns the job numbers.

    Raises:
      UserError: there is no Slurm here, or it refuses.
    """
    if shutil.which("sbatch") is None:
        raise UserError("--slurm: there is no sbatch here; run this on a cluster's login node, or leave --slurm out")
    numbers: list[str] = []
    for path in paths:
        after = [f"--dependency=afterany:{numbers[-1]}"] if numbers else []
        done = subprocess.run(["sbatch", "--parsable", *after, str(path)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"sbatch {path}: {' '.join(done.stderr.split())}")
        numbers.append(done.stdout.strip().split(";")[0])
    return numbers
