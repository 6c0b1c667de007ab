"""Signals that come in pairs, from the wrappers that send them so: what the first one would have saved is saved."""

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.exhaustive import few
from tests.processes import ROOT

READY = "ready"
# Saves for a little longer than a wrapper takes to send its second signal; a third comes on the way out.
SAVING = """
import signal, sys, time
from transformer import command
from transformer.training.interrupt import Now, stop_on_signal

def main():
    with stop_on_signal(signal.SIGUSR1) as stop:
        print("ready", flush=True)
        try:
            while True:
                stop.check()
                time.sleep(0.02)
        except Now:
            time.sleep(0.4)
            print("saved", stop.signal, flush=True)
    signal.raise_signal(signal.SIGTERM)
    sys.exit(75)

command.run(main)
"""
# Its end takes a while, as JAX's does.
STARTING = """
import atexit, time
from transformer import command

def main():
    atexit.register(time.sleep, 0.5)
    print("ready", flush=True)
    time.sleep(60)

command.end(command.run(main))
"""
# As a shell's trap does it: to the process, a little later to all of its group.
FORWARDS = "trap 'kill -INT $!; sleep 0.1; kill -TERM -- -$$' INT; \"$@\" & wait $!; wait $!; exit $?"
# It kills its processes so many seconds after it told them to end: by default one.
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--mca", "odls_base_sigkill_timeout", "2", "-n", "1"]
ONCE = ["unshare", "--pid", "--fork", "--kill-child"]


@contextlib.contextmanager
def started(program, wrapper=(), **options):
    """Starts a program below a wrapper, in a group of its own, and waits until it is ready."""
    process = subprocess.Popen(
        [*wrapper, sys.executable, "-c", program],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True} | options,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    try:
        if process.stdout is not None:
            assert process.stdout.readline() == f"{READY}\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def to_process(process, number):
    process.send_signal(number)


def child_of(process):
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])


def to_group(process, number):
    os.killpg(process.pid, number)


def to_process_and_group(process, number):
    process.send_signal(number)
    time.sleep(0.1)
    to_group(process, number)


def to_child(process, number):
    os.kill(child_of(process), number)


WRAPPERS = {
    # (wrapper, how the signal is sent, signal, exit code, the signal that is told)
    "kill -- -GROUP": ([], to_group, signal.SIGINT, 75, "SIGINT"),
    "kill PID and -GROUP": ([], to_process_and_group, signal.SIGTERM, 75, "SIGTERM"),
    "a shell's trap": (["bash", "-c", FORWARDS, "bash"], to_process, signal.SIGINT, None, "SIGINT"),
    # At its time's end `timeout` gets SIGALRM.
    "timeout -s INT": (["timeout", "--preserve-status", "-s", "INT", "600"], to_process, signal.SIGALRM, 75, "SIGINT"),
    "timeout -s TERM": (["timeout", "600"], to_process, signal.SIGALRM, 124, "SIGTERM"),
    "timeout mpirun": (
        ["timeout", "-s", "USR1", "600", *MPIRUN],
        to_process,
        signal.SIGALRM,
        124,
        "SIGUSR1",
    ),
    "mpirun": (MPIRUN, to_process, signal.SIGTERM, 1, "SIGTERM"),
    "process 1 of a container": (ONCE, to_child, signal.SIGTERM, 75, "SIGTERM"),
}


@pytest.mark.parametrize("name", few(WRAPPERS, "timeout -s INT"))
def test_a_wrapper_that_signals_twice_loses_nothing(name):
    wrapper, send, number, code, said = WRAPPERS[name]
    needs(wrapper)
    with started(SAVING, wrapper) as process:
        send(process, number)
        out, err = process.communicate(timeout=60)
    assert out.splitlines()[:1] == [f"saved {said}"], err
    assert "again: leaving" not in err
    assert code is None or process.returncode == code, err


def needs(wrapper):
    missing = [
        program for program in wrapper if program in ("mpirun", "unshare", "timeout") if not shutil.which(program)
    ]
    if missing or ("unshare" in wrapper and subprocess.run([*ONCE, "true"], capture_output=True).returncode):
        pytest.skip(f"{missing or 'unshare'} cannot be used here")


@pytest.mark.exhaustive
def test_the_first_process_of_a_container_ends_at_a_signal_while_it_starts():
    """The kernel keeps a signal without a handler from it."""
    needs(ONCE)
    with started(STARTING, ONCE) as process:
        began = time.monotonic()
        to_child(process, signal.SIGTERM)
        assert process.wait(timeout=30) == signal.SIGTERM
        assert time.monotonic() - began < 10


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:os.fork")  # JAX, which this process has, warns of any
def test_ctrl_c_in_a_terminal_reaches_a_supervised_process_twice(tmp_path):
    """From the terminal, which signals all of its foreground group, and from the supervisor."""
    wrapper = [sys.executable, str(ROOT / "tools/launch/supervise.py"), "--run", str(tmp_path), "--"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        os.execv(sys.executable, [*wrapper, sys.executable, "-c", SAVING])
    shown = b""
    try:
        while b"ready" not in shown:
            shown += os.read(terminal, 1024)
        os.write(terminal, b"\x03")
        with contextlib.suppress(OSError):  # Linux ends a terminal's reading so
            while received := os.read(terminal, 1024):
                shown += received
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75, shown
    finally:
        os.close(terminal)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert b"saved SIGINT" in shown
    assert b"restart" not in shown


@pytest.mark.exhaustive
def test_an_interrupt_in_pairs_before_there_is_anything_to_save_is_one_line():
    with started(STARTING) as process:
        to_process_and_group(process, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (2, "error: interrupted; nothing was lost that had been saved\n")
