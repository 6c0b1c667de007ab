"""mpirun of Open MPI 4 and 5: the losses are one process's, and what stops mpirun saves and leaves."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster import tiny

WHEEL = Path(sys.prefix) / "openmpi5" / "bin" / "mpirun"
"""Open MPI 5, in a folder of its own: Debian has version 4."""
VERSIONS = {4: shutil.which("mpirun"), 5: str(WHEEL) if WHEEL.exists() else None}
HOW = {4: "make cluster-test-packages installs Open MPI 4", 5: "make test-all installs Open MPI 5"}

PATIENCE = "6"
"""Seconds that mpirun waits before its SIGTERM, and before its SIGKILL; by default one, which is no time to save."""

pytestmark = pytest.mark.exhaustive


@pytest.fixture(params=VERSIONS, ids=lambda version: f"openmpi{version}")
def mpirun(request):
    """The beginning of a command line for two processes, by version."""
    program = VERSIONS[request.param]
    if program is None:
        pytest.skip(f"there is no mpirun: {HOW[request.param]}")
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if f"(Open MPI) {request.param}." not in said:
        pytest.skip(f"{program} is not Open MPI {request.param}: {HOW[request.param]}")
    patience = ["--mca", "odls_base_sigkill_timeout", PATIENCE] if request.param == 4 else []  # 5 has none
    # As root and with more processes than cores, as in a container.
    how = ["--allow-run-as-root", "--oversubscribe", "--bind-to", "none", *patience]
    return [program, *how, "-np", "2"]


def test_two_processes_train_as_one_does(mpirun, folder, whole):
    name = f"two-{'5' if 'openmpi5' in mpirun[0] else '4'}"
    args = [*mpirun, *tiny.command(folder, name, "--distributed")]
    environment = tiny.environment() | {"STEP_SECONDS": "0"}
    done = subprocess.run(args, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "on 2 cpu devices (data 2)" in done.stdout
    assert tiny.losses(folder / name) == pytest.approx(whole, rel=tiny.TOLERANCE)


@pytest.mark.parametrize(
    ("mpirun", "how"),
    [(4, "Ctrl-C"), (5, "SIGUSR1")],
    indirect=["mpirun"],
    ids=lambda value: str(value),
)
def test_what_stops_mpirun_saves_and_leaves(mpirun, folder, whole, how):
    """Ctrl-C is a SIGINT to the terminal's foreground group. At that and at SIGTERM, Open MPI 5 leaves no time."""
    name = f"{how}-{'5' if 'openmpi5' in mpirun[0] else '4'}"
    run = folder / name
    signals = ("--checkpoint.signal", "USR1") if how == "SIGUSR1" else ()
    args = [*mpirun, *tiny.command(folder, name, "--distributed", *signals)]
    log = folder / f"{name}.log"
    environment = tiny.environment() | {"STEP_SECONDS": "0.4"}
    with open(log, "w") as file:
        job = subprocess.Popen(args, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        tiny.until_step(run, 8)
        if how == "Ctrl-C":
            os.killpg(job.pid, signal.SIGINT)
        else:
            job.send_signal(getattr(signal, how))
        job.wait(timeout=120)
    finally:
        kill(job)
    said = log.read_text()
    assert job.returncode != 0, said
    assert "stopped after step " in said
    tiny.check_saved(run, whole, at_least=8)


def kill(job: subprocess.Popen) -> None:
    """Ends a job that did not end by itself."""
    if job.poll() is None:
        job.kill()
        time.sleep(1)  # mpirun's processes end when it does
