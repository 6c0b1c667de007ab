"""Whole runs that meet a limit on the size of files, as they would a full disk: they go on, and end well with room."""

import os
import resource
import time
from pathlib import Path

import pytest

from tests import processes
from tools import crash
from transformer.checkpoint import verify


@pytest.mark.exhaustive
@pytest.mark.parametrize("count", [1, 2])
def test_a_run_outlives_a_full_disk(tmp_path, count):
    """No save finds room, nor do the last rows of metrics.jsonl, until the run waits for its last save alone."""
    crash.write_corpus(tmp_path / "corpus")
    run = crash.Run(tmp_path / "run", tmp_path / "corpus", count)
    args = [*run._args[1:], *(["--distributed"] if count > 1 else [])]
    with processes.started(args, count) as started:
        rows = run.folder / "metrics.jsonl"
        wait_for(started, lambda: rows.exists() and rows.stat().st_size > 0)  # what it compiled is cached by now
        limit(started, 20_000)
        wait_for(started, lambda: rows.stat().st_size == 20_000)
        wait_for(started, lambda: all(idles(process) for process in started))  # for room, at its last save
        assert [process.poll() for process in started] == [None] * count
        assert run.newest == 0
        limit(started, resource.RLIM_INFINITY)
        ended = processes.ended(started, timeout=240)
    assert [one.code for one in ended] == [0] * count, ended[0].err
    failures = [line for line in ended[0].out.splitlines() if "could not be saved" in line]
    assert failures
    assert all("File too large" in line and line.endswith("The training goes on, and tries again") for line in failures)
    assert ended[0].err.count("metrics.jsonl could not be written: File too large") == 1
    assert [row["step"] for row in run.rows() if "loss" in row] == list(range(1, crash.STEPS + 1))
    assert {path.name for path in (run.folder / "checkpoints").iterdir()} == {str(crash.STEPS)}
    assert verify(run.folder / "checkpoints" / str(crash.STEPS)) == []
    for one in ended:
        assert "Traceback" not in one.err


def wait_for(started, condition):
    ends = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < ends
        assert started[0].poll() is None, started[0].communicate()
        time.sleep(0.05)


def idles(process):
    """Whether a process computes less than a tenth of three seconds."""
    before = seconds(process)
    time.sleep(3)
    return seconds(process) - before < 0.3


def seconds(process):
    """The processor's time of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def limit(started, size):
    for process in started:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
