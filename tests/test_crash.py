"""Real runs in processes of their own, killed and started again: tools/crash.py, a few kills long."""

import json
import random
import signal

import numpy as np
import pytest

from tools import crash
from tools.crash import Kill

TERM, KILL = signal.SIGTERM, signal.SIGKILL


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash")
    crash.write_corpus(folder / "corpus")
    return folder


@pytest.fixture(scope="module")
def whole(folder):
    """A run of one process that nobody killed."""
    return finished(crash.Run(folder / "whole", folder / "corpus", 1))


def finished(run, *kills):
    assert crash.survive(run, kills, random.Random(0)).total() == len(kills)
    return run


def losses(run):
    return {row["step"]: row["loss"] for row in run.rows() if "loss" in row}


@pytest.mark.exhaustive
def test_a_killed_run_is_the_run_that_was_not(folder, whole):
    run = crash.Run(folder / "killed", folder / "corpus", 1)
    finished(run, Kill(TERM, "step"), Kill(KILL, "save"), Kill(TERM, "evaluation"))
    assert crash.differences(run, whole) == []
    # The comparison can fail.
    (run.folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, run.rows()[:-1])))
    assert len(crash.differences(run, whole)) == 1


@pytest.mark.exhaustive
def test_two_processes_agree_where_to_stop_and_other_numbers_go_on(folder, whole):
    """Two processes go on from one; one gets the signal, and both save the same step; then one ends the run alone."""
    run = crash.Run(folder / "elastic", folder / "corpus", 1)
    stops = [0]
    for processes in (1, 2):
        run.processes = processes
        with run.started() as started:
            assert crash.wait_for("step", run, started, random.Random(0))
            started[-1].send_signal(TERM)
            assert [process.wait(timeout=120) for process in started] == [75] * processes
        log = (folder / "elastic.log").read_text()
        assert log.count("error: SIGTERM: stopped after step") == sum(range(1, processes + 1))
        stops.append(run.newest)
    assert stops == sorted(set(stops))
    run.processes = 1
    finished(run)
    assert list(losses(run)) == list(losses(whole))
    np.testing.assert_allclose(list(losses(run).values()), list(losses(whole).values()), atol=1e-5)
