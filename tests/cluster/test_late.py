"""Processes that are late, stuck or fail: all leave in time, with a line that names who, where and why."""

import json
import signal
import socket
import time

import pytest

from tests import processes

LATE = str(processes.ROOT / "tests" / "cluster" / "late.py")
DEADLINE = 4.0  # as there
SLACK = 10.0
HOST = socket.gethostname()


def ended(folder, act, phase, process, count=2):
    """Returns how processes ended of which one acts in a phase, by index, and the seconds from there on.

    One that stopped itself goes on once the others are gone.
    """
    with processes.started([LATE, str(folder), act, phase, str(process)], count) as started:
        while "acting" not in (line := started[process].stdout.readline()):
            assert line, started[process].stderr.read()
        began = time.monotonic()
        others = [each for each in started if act != "stop" or each is not started[process]]
        for each in others:
            each.wait(120)
        seconds = time.monotonic() - began
        if act == "stop":
            started[process].send_signal(signal.SIGCONT)
        return processes.ended(started, timeout=60), seconds


def failure(folder):
    return json.loads((folder / "run" / "failure.json").read_text())


def check_late(both, seconds, phase, *, process=1, own=None):
    """All but a stopped one end in time with code 124 and one line, which names the late one."""
    assert seconds < DEADLINE + SLACK, both
    for each in both if own is None else [each for each in both if each is not own]:
        assert each.code == 124, each.err
        [line] = each.error_lines
        assert line.startswith(f"error: process {process} of {len(both)} on {HOST} "), line
        assert f"phase {phase}" in line


@pytest.mark.exhaustive
def test_a_process_that_is_stuck_in_a_step_is_named(tmp_path):
    both, seconds = ended(tmp_path, "sleep", "step", 1)
    check_late(both, seconds, "step")
    [line] = both[0].error_lines
    assert "has been in phase step (update 3) for " in line
    assert "it is at cluster/late.py:" in line
    assert "sleeper; all others wait" in line
    place = {"process": 1, "host": HOST, "phase": "step", "step": 3}
    assert failure(tmp_path).items() >= (place | {"exit_code": 124}).items()
    for process in (0, 1):
        assert "most recent call first" in (tmp_path / f"run/stacks/process-{process}.txt").read_text()
    assert "sleeper" in (tmp_path / "run/stacks/process-1.txt").read_text()


@pytest.mark.exhaustive
@pytest.mark.parametrize(("phase", "process"), [("save", 1)])
def test_a_process_that_is_stuck_is_named(phase, process, tmp_path):
    both, seconds = ended(tmp_path, "sleep", phase, process)
    check_late(both, seconds, phase, process=process)
    assert failure(tmp_path)["process"] == process


@pytest.mark.exhaustive
@pytest.mark.parametrize(("phase", "process"), [("exit", 1)])
def test_a_process_that_is_stopped_is_named_and_ends_once_it_goes_on(phase, process, tmp_path):
    both, seconds = ended(tmp_path, "stop", phase, process)
    check_late(both, seconds, phase, process=process, own=both[process])
    [line] = both[1 - process].error_lines
    assert "gives no sign of life" in line
    assert both[process].code not in (0, None), both[process].err


@pytest.mark.exhaustive
@pytest.mark.parametrize(("act", "phase"), [("raise", "save")])
def test_the_first_cause_of_a_failure_is_on_record(act, phase, tmp_path):
    both, seconds = ended(tmp_path, act, phase, 1)
    code = 1 if act == "raise" else 2
    assert [each.code for each in both] == [code, code], both
    assert seconds < 30
    record = failure(tmp_path)
    assert record.items() >= {"exit_code": code, "process": 1, "host": HOST, "phase": phase}.items()
    assert ("Traceback" in (record["traceback"] or "")) == (act == "raise")
    [line] = both[0].error_lines
    assert record["message"] in line


@pytest.mark.exhaustive
def test_alone_a_stuck_reader_ends_the_run(tmp_path):
    [own], seconds = ended(tmp_path, "sleep", "data", 0, count=1)
    check_late([own], seconds, "data", process=0)
    [line] = own.error_lines
    assert "past --cluster.deadlines.data 4" in line
    assert line.endswith(f"stacks: {tmp_path / 'run/stacks'}")
    assert "sleeper" in (tmp_path / "run/stacks/process-0.txt").read_text()


@pytest.mark.exhaustive
def test_nothing_ends_while_a_debugger_holds_a_process(tmp_path):
    for each in ended(tmp_path, "debug", "step", 1)[0]:
        assert each.code == 0, each.err
