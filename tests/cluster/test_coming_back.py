"""Coming back: two processes of which one was killed go on as two, as one with two devices, as one with one device."""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tools import crash

pytestmark = pytest.mark.exhaustive
ROOT = crash.ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coming-back")
    crash.write_corpus(folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """A run of two processes that nobody killed."""
    run = crash.Run(folder / "whole", folder / "corpus", 2)
    ended(run)
    return run


@pytest.fixture(scope="module")
def killed(folder):
    """The same run, of which one process was killed at a random instant of its steps."""
    run = crash.Run(folder / "killed", folder / "corpus", 2)
    with run.started() as processes:
        await_checkpoint(run, processes)
        time.sleep(random.uniform(0, 0.3))
        random.choice(processes).kill()
        codes = {process.wait(timeout=60) for process in processes}
    assert codes == {-signal.SIGKILL, 1}, log(run)
    assert 0 < run.newest < crash.STEPS
    return run


def log(run):
    return Path(f"{run.folder}.log").read_text()


def await_checkpoint(run, processes):
    """Waits for a checkpoint that is not there yet."""
    before = run.newest
    while run.newest <= before:
        assert all(process.poll() is None for process in processes), log(run)
        time.sleep(0.005)


def ended(run):
    with run.started() as processes:
        assert [process.wait(timeout=180) for process in processes] == [0] * len(processes), log(run)


@pytest.mark.parametrize(("processes", "devices"), [(2, 1), (1, 2), (1, 1)])
def test_it_goes_on_with_other_processes_and_devices(processes, devices, folder, killed, whole):
    run = crash.Run(folder / f"{processes}x{devices}", folder / "corpus", processes)
    shutil.copytree(killed.folder, run.folder)
    run.devices = devices
    ended(run)
    if processes * devices == 2:  # the same mesh, whichever processes own its devices
        assert crash.differences(run, whole) == []
        return
    for name in ("loss", "eval_loss"):
        ours, theirs = ({row["step"]: row[name] for row in either.rows() if name in row} for either in (run, whole))
        assert list(ours) == list(theirs)
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=1e-5)


def test_supervisors_bring_a_job_back(folder, whole):
    """One on each of two hosts; the coordinator's address is that of the start before."""
    run = crash.Run(folder / "supervised", folder / "corpus", 2)
    run.wrapper = [sys.executable, str(ROOT / "tools/launch/supervise.py"), "--backoff", "5", "--"]
    with run.started() as supervisors:
        for victim in (1, 0):  # the one that has the coordinator, too
            await_checkpoint(run, supervisors)
            path = Path(f"/proc/{supervisors[victim].pid}/task/{supervisors[victim].pid}/children")
            os.kill(int(path.read_text().split()[0]), signal.SIGKILL)
        assert [process.wait(timeout=180) for process in supervisors] == [0, 0], log(run)
    restarts = [line for line in log(run).splitlines() if line.startswith("supervise: ")]
    assert len(restarts) == 4, log(run)
    assert crash.differences(run, whole) == []
