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
from transformer.training.interrupt import Now, StopRequest, stop_on_signal


def send(number=signal.SIGTERM, after=0.0):
    threading.Timer(after, os.kill, (os.getpid(), number)).start()


def noticed(stop: StopRequest):
    assert stop.wait(1.0)
    return stop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_obeyed_at_the_next_place(number, capfd):
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with stop_on_signal(signal.SIGUSR1) as stop:
        stop.check()
        assert list(stop.each("ab")) == ["a", "b"]
        send(number)
        assert noticed(stop).signal == number.name
        with pytest.raises(Now):
            stop.check()
        with pytest.raises(Now):
            next(stop.each("ab"))
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
    assert f"{number.name}: stopping; a second signal leaves at once" in capfd.readouterr().err


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
            time.sleep(0.5)
            process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "SIGTERM: stopping" in err
    assert said in err
