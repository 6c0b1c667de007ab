"""The same command twice in one folder, with real processes: the second is refused, and the first is whole."""

import os
import random
import signal
import subprocess

import pytest

from tools import crash

ROOT = crash.ROOT


def again(run):
    """Returns how the same command ends."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(run._args, env=environment, capture_output=True, text=True, timeout=170, check=False)


@pytest.mark.exhaustive
def test_the_second_of_two_starts_is_refused_and_harms_nothing(tmp_path):
    crash.write_corpus(tmp_path / "corpus")
    run = crash.Run(tmp_path / "run", tmp_path / "corpus", 1)
    with run.started() as [first]:
        assert crash.wait_for("step", run, [first], random.Random(0))
        first.send_signal(signal.SIGSTOP)  # so that it does not end meanwhile
        names = {path.name for path in run.folder.iterdir()}
        second = again(run)
        assert {path.name for path in run.folder.iterdir()} == names
        first.send_signal(signal.SIGCONT)
        assert second.returncode == 2, second.stderr
        [line] = second.stderr.splitlines()
        assert line.startswith(f"error: {run.folder}: this run is going on already, in process {first.pid} on ")
        assert ", since 20" in line
        first.kill()
        first.wait()
    # A killed one holds nothing.
    crash.survive(run, [], random.Random(0))
    assert [row["step"] for row in run.rows() if "loss" in row] == list(range(1, crash.STEPS + 1))
    assert "lock.json" not in {path.name for path in run.folder.iterdir()}
