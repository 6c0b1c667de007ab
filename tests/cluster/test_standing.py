"""Who is late, from where the processes stand; and when a deadline has passed."""

import dataclasses
import subprocess
import sys
import time
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.checks import FieldError
from transformer.cluster import deadlines, phases
from transformer.cluster.config import Deadlines
from transformer.cluster.standing import Standing, late_of, verdict

USUAL = Standing(
    process=0, count=3, host="a", pid=7, phase="step", seconds=60.0, limit=60.0, update=9, waits=None,
    at="jax/array.py:1 _value", is_joint=True, debugged=False, beat=1,
)  # fmt: skip


def job(**late):
    """Three processes in a step, the second of which is different."""
    change = {"process": 1, "host": "b"} | late
    return {0: USUAL, 1: dataclasses.replace(USUAL, **change), 2: dataclasses.replace(USUAL, process=2, host="c")}


@pytest.mark.parametrize(
    "late",
    [
        {"phase": "data", "update": 8, "is_joint": False},
        {"phase": "step", "update": 8},
        {"phase": "save", "update": 8},
        {"is_joint": False},
        {"phase": "start", "update": None},
    ],
)
def test_the_one_that_is_behind_is_late(late):
    answers = job(**late)
    found = verdict(USUAL, "--cluster.deadlines.step", answers, {})
    assert found.late == answers[1]
    assert not found.waits_on
    assert found.message.startswith(f"process 1 of 3 on b has been in {answers[1].where} for 60 s: it is at ")


@pytest.mark.parametrize("seconds", [59.0, 60.0])
def test_a_late_one_gets_the_time_of_its_own_phase(seconds):
    answers = job(phase="data", update=8, seconds=seconds)
    assert verdict(USUAL, "--cluster.deadlines.step", answers, {}).waits_on == (seconds < 60)


def test_one_that_waits_for_the_others_is_not_late():
    waits = job(phase="save", waits="the last save")
    others = {index: dataclasses.replace(each, phase="save") for index, each in waits.items()}
    waits[0] = dataclasses.replace(waits[0], phase="save")
    waits[2] = dataclasses.replace(waits[2], phase="save", waits="the last save")
    assert [each.process for each in late_of(list(waits.values()))] == [0]
    assert len(late_of([dataclasses.replace(each, waits=None) for each in others.values()])) == 3


def test_one_that_is_silent_is_named_by_what_it_last_said():
    answers = job()
    silent = answers.pop(1)
    found = verdict(USUAL, "--cluster.deadlines.step", answers, {1: dataclasses.replace(silent, update=7)})
    assert found.message.startswith("process 1 of 3 on b (pid 7) gives no sign of life, last seen in phase step (update 7): ")  # fmt: skip # noqa: E501
    assert found.failure(USUAL, 124).items() >= {"process": 1, "host": "b", "step": 7, "exit_code": 124}.items()
    assert verdict(USUAL, "", answers, {}).message.startswith("process 1 of 3 gives no sign of life: ")


def test_where_nothing_tells_them_apart_nobody_is_named():
    found = verdict(USUAL, "--cluster.deadlines.step", job(), {})
    assert found.late is None
    assert found.message.startswith("all 3 processes have been in phase step (update 9) for 60 s, past --cluster.")


def test_a_debugger_anywhere_ends_nothing():
    assert verdict(USUAL, "", job(debugged=True), {}).waits_on


@given(
    st.lists(
        st.builds(
            Standing,
            process=st.integers(0, 3), count=st.just(4), host=st.just("a"), pid=st.just(1),
            phase=st.sampled_from(phases.PHASES), seconds=st.floats(0, 1e6), limit=st.none() | st.floats(1, 1e6),
            update=st.none() | st.integers(0, 9), waits=st.none() | st.just("x"), at=st.just("y"),
            is_joint=st.booleans(),
            debugged=st.just(False), beat=st.just(1),
        ),
        min_size=1,
    )
)  # fmt: skip
def test_somebody_is_always_late_and_nobody_who_is_ahead_of_one_that_runs(standings):
    late = late_of(standings)
    assert late
    assert all(each in standings for each in late)
    running = [each for each in standings if each.waits is None] or standings
    assert {each.position for each in late} == {min(each.position for each in running)}
    assert [Standing.parsed(each.to_json()) for each in late] == late


@pytest.fixture
def step(monkeypatch):
    """This process in a step that may last 60 s, and a function that lets seconds pass."""
    outer, now = phases.enter("step"), [time.monotonic()]
    monkeypatch.setattr(deadlines.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(phases, "_current", phases.Current("step", now[0]))
    deadlines.use(Deadlines(step=60, compile=90))

    def passes(seconds):
        now[0] += seconds

    yield passes
    deadlines.use(Deadlines())
    monkeypatch.undo()
    phases.enter(outer)


def test_a_deadline_passes_and_progress_counts_anew(step):
    step(59)
    assert deadlines.missed() is None
    step(2)
    missed = deadlines.missed()
    assert missed is not None
    assert (missed.phase, missed.limit, missed.flag) == ("step", 60, "--cluster.deadlines.step")
    phases.enter("step")
    assert deadlines.missed() is None


def test_work_with_a_deadline_of_its_own(step):
    with deadlines.allowing("compile"):
        step(80)
        assert deadlines.missed() is None
        assert phases.current().name == "step"
        step(20)
        assert deadlines.missed().flag == "--cluster.deadlines.compile"
    assert deadlines.missed() is None


def test_seconds_in_which_the_process_was_stopped_do_not_count(step):
    step(100)
    deadlines.stopped(50)
    assert deadlines.missed() is None
    step(11)
    assert deadlines.missed() is not None
    phases.enter("step")
    step(61)
    assert deadlines.missed() is not None


def test_deadlines_that_are_off(step):
    step(10**6)
    for off in (Deadlines(step=None), Deadlines(enabled=False)):
        deadlines.use(off)
        assert deadlines.missed() is None
    assert deadlines.patience() == deadlines.NO_DEADLINE
    with pytest.raises(FieldError):
        Deadlines(step=0)


def test_what_hangs_holds_nobody():
    began = time.monotonic()
    assert deadlines.bounded(0.1, lambda: time.sleep(5)) is None
    assert deadlines.bounded(1, lambda: 1 / 0) is None
    assert deadlines.bounded(1, lambda: 3) == 3
    assert time.monotonic() - began < 3


def test_this_process_is_not_debugged_until_pdb_holds_it():
    with mock.patch.object(deadlines.sys, "gettrace", return_value=None):
        assert not deadlines.debugged()
        frames = [mock.Mock(**{"f_code.co_filename": "/usr/lib/python3.11/bdb.py"})]
        with mock.patch.object(deadlines, "main_frames", return_value=frames):
            assert deadlines.debugged()


RETURNING = """
import gc, sys, threading, time
from transformer.cluster import deadlines

def deep(calls):
    return deep(calls - 1) if calls else [[], []]

def look():
    while time.monotonic() < end:
        [*deadlines.main_frames()]

end = time.monotonic() + 2
gc.callbacks.append(lambda phase, info: time.sleep(1e-4))  # as a finalizer that gives up Python's lock
gc.set_threshold(1)
sys.setswitchinterval(1e-5)
threading.Thread(target=look).start()
while time.monotonic() < end:
    deep(200)
"""


def test_the_main_thread_may_return_from_frames_that_are_looked_at():
    """Signs of life crashed a process now and then: garbage was collected while frames were made objects."""
    subprocess.run([sys.executable, "-c", RETURNING], check=True, timeout=60)


@pytest.mark.parametrize("silence", [2.0, 6.0, 60.0, None])
def test_several_signs_of_life_come_before_silence_counts(silence, monkeypatch):
    """With one in five seconds and a limit of six, a process that was busy for a moment was taken for a stopped one."""
    monkeypatch.setattr(deadlines, "_deadlines", Deadlines(silence=silence))
    assert deadlines.between_signs() <= min(5.0, (silence or 100.0) / 4)
