"""Processes of runs: their share of the cores, and that none outlives the process that started it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from transformer.errors import UserError
from transformer.sweeps import processes

STARTS = """
import sys, time
from pathlib import Path
from transformer.sweeps.processes import started
print(started(sys.argv[2:], Path(sys.argv[1]), None).pid, flush=True)
time.sleep(60)
"""
SAVES = """
import signal, sys, time
def save(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


def test_jobs_share_the_cores():
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:
        first, second = processes.shares(2, cpu=True)
        assert first | second == cores
        assert not first & second
    assert processes.shares(3, cpu=False) == [None] * 3
    with pytest.raises(UserError, match="--jobs 0"):
        processes.shares(0, cpu=False)
    with pytest.raises(UserError, match="one a core"):
        processes.shares(len(cores) + 1, cpu=True)


def test_a_process_is_told_to_stop_when_its_starter_is_killed(tmp_path):
    log = tmp_path / "logs" / "log"
    command = [sys.executable, "-c", STARTS, str(log), sys.executable, "-c", SAVES]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        wait_for(lambda: log.exists() and "ready" in log.read_text())
        starter.send_signal(signal.SIGKILL)
    wait_for(lambda: "saved" in log.read_text())
    wait_for(lambda: not os.path.exists(f"/proc/{child}") or is_zombie(child))


def wait_for(condition):
    ends = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.02)


def is_zombie(process):
    """Whether a process has ended, and its adopter has not asked yet."""
    with open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"
