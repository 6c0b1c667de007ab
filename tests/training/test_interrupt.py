"""Signals: noticed in every phase, obeyed where nothing is lost; a second one leaves at once."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.exhaustive import few
from transformer.errors import Interrupted
from transformer.training import interrupt
from transformer.training.interrupt import Now, StopRequest, stop_on_signal


@pytest.fixture(autouse=True)
def handlers():
    """Each test begins with the handlers of a new process: those that ignore a pair's second signal outlast a test."""
    new = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL, signal.SIGUSR1: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in new.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number=signal.SIGTERM, after=0.0):
    threading.Timer(after, os.kill, (os.getpid(), number)).start()


def noticed(stop: StopRequest):
    assert stop.wait(1.0)
    return stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_obeyed_at_the_next_place(number, capfd):
    with stop_on_signal(signal.SIGUSR1) as stop:
        stop.check()
        assert list(stop.each("ab")) == ["a", "b"]
        send(number)
        assert noticed(stop).signal == number.name
        with pytest.raises(Now):
            stop.check()
        with pytest.raises(Now):
            next(stop.each("ab"))
    assert f"{number.name}: stopping; another signal after 2 seconds leaves at once" in capfd.readouterr().err


def test_handlers_are_as_they_were_after_the_block():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with stop_on_signal(signal.SIGUSR1):
        assert all(signal.getsignal(number) not in before for number in numbers)
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.fixture
def left(monkeypatch):
    """The lines with which the process would have ended at once; a pair's second signal comes within 0.3 s."""
    lines = []
    monkeypatch.setattr(interrupt, "end", lambda error, line, code, at_once: lines.append((line, code)))
    monkeypatch.setattr(interrupt, "PAIR", 0.3)
    return lines


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_of_a_pair_is_the_first_one(second, left):
    with stop_on_signal() as stop:
        send(signal.SIGINT)
        noticed(stop)
        send(second)
        time.sleep(0.5)
        assert left == []
        assert stop.signal == "SIGINT"
        send(second)  # a request of its own
        time.sleep(0.2)
    assert left == [(f"error: {second.name} again: leaving at once; what was saved before is whole", 128 + second)]


def test_the_second_signal_of_a_pair_raises_nothing_while_the_first_unwinds(left):
    cleaned = []

    def data():
        try:
            time.sleep(60)
        finally:
            time.sleep(0.1)
            cleaned.append(True)

    with stop_on_signal() as stop:
        send(after=0.1)
        send(after=0.15)
        with pytest.raises(Now), stop.waiting():
            data()
    assert (cleaned, left) == ([True], [])


def test_the_second_signal_of_a_pair_does_not_strike_the_way_out(left):
    with stop_on_signal() as stop:
        send()
        noticed(stop)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.raise_signal(number)
    time.sleep(0.4)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_wait_for_data_ends_at_once():
    with stop_on_signal() as stop:
        send(after=0.2)
        began = time.monotonic()
        with pytest.raises(Now), stop.waiting():
            queue.Queue().get()
        assert time.monotonic() - began < 5
        with pytest.raises(Now), stop.waiting():  # and it is not begun again
            pytest.fail("it was")


def test_where_nothing_is_unsaved_a_signal_leaves_from_anywhere():
    with stop_on_signal(resume="Like so.") as stop:
        send(after=0.2)
        with pytest.raises(Interrupted, match="SIGTERM: stopped; nothing was unsaved. Like so."), stop.free():
            time.sleep(60)
    assert Interrupted.exit_code == 75


def test_a_first_update_that_was_made_is_not_left_behind():
    """The signal came in the compilation, which ended meanwhile: the next place is where to stop, and to save."""
    with stop_on_signal() as stop:
        with stop.compiling():
            send()
            noticed(stop)
            time.sleep(0.1)
        with pytest.raises(Now):
            stop.check()
        time.sleep(0.7)  # the thread has no reason left to leave


_PROGRAM = """
import hashlib
from transformer.training.interrupt import stop_on_signal
with stop_on_signal(resume="Like so.") as stop:
    print("ready", flush=True)
    if {phase!r}:
        with getattr(stop, {phase!r})():
            hashlib.pbkdf2_hmac('sha256', b'', b'', 200_000_000)  # as in a compilation, which runs no Python
    else:
        hashlib.pbkdf2_hmac('sha256', b'', b'', 200_000_000)
"""


LEFT = [
    ("free", [signal.SIGTERM], 75, "SIGTERM: stopped; nothing was unsaved. Like so."),
    ("compiling", [signal.SIGTERM], 75, "SIGTERM: stopped; nothing was unsaved. Like so."),
    ("", [signal.SIGTERM, signal.SIGINT], 128 + signal.SIGINT, "SIGINT again: leaving at once"),
]


@pytest.mark.parametrize(
    ("phase", "signals", "code", "said"),
    few(LEFT, LEFT[1]),
)
def test_leaves_a_compilation(phase, signals, code, said):
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM.format(phase=phase)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        for number in signals:
            time.sleep(0.5 if number is signals[0] else interrupt.PAIR + 0.1)
            process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "SIGTERM: stopping" in err
    assert said in err
