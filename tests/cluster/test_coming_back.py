"""Coming back: two processes, of which one was killed, go on as one with two devices and, supervised, as two."""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from tools import crash

pytestmark = pytest.mark.exhaustive
ROOT = crash.ROOT


@pytest.fixture(scope="module", autouse=True)
def shorter():
    """Half of the steps are enough saves and evaluations to be killed between."""
    with mock.patch.object(crash, "STEPS", 60):
        yield


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
    with run.started() as both:
        await_checkpoint(run, both)
        time.sleep(random.uniform(0, 0.3))
        random.choice(both).kill()
        codes = {process.wait(timeout=60) for process in both}
    assert codes == {-signal.SIGKILL, 1}, log(run)
    assert 0 < run.newest < crash.STEPS
    return run


def log(run):
    return Path(f"{run.folder}.log").read_text()


def await_checkpoint(run, started):
    """Waits for a checkpoint that is not there yet."""
    before = run.newest
    while run.newest <= before:
        assert all(process.poll() is None for process in started), log(run)
        time.sleep(0.005)


def ended(run):
    with run.started() as started:
        assert [process.wait(timeout=180) for process in started] == [0] * len(started), log(run)


def test_one_process_with_the_devices_of_both_goes_on(folder, killed, whole):
    """The mesh is the same, whichever processes own its devices."""
    run = crash.Run(folder / "1x2", folder / "corpus", 1)
    shutil.copytree(killed.folder, run.folder)
    run.devices = 2
    ended(run)
    assert crash.differences(run, whole) == []


SUPERVISOR = [sys.executable, str(ROOT / "tools/launch/supervise.py"), "--backoff", "5"]


def test_a_supervised_job_is_the_one_that_was_not_killed(folder, whole):
    run = crash.Run(folder / "supervised", folder / "corpus", 2)
    run.wrapper = [*SUPERVISOR, "--"]
    with run.started() as supervisors:
        await_checkpoint(run, supervisors)
        victim = random.choice(supervisors).pid
        children = Path(f"/proc/{victim}/task/{victim}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGKILL)
        assert [process.wait(timeout=180) for process in supervisors] == [0, 0], log(run)
    assert log(run).count("supervise: ") == 2, log(run)
    assert crash.differences(run, whole) == []
