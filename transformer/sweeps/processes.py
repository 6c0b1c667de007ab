"""Processes of runs: `train.py --workdir RUN`, each on its share of the cores, and the signals that are passed on."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from transformer.errors import UserError

_FOLLOW = """
import ctypes, os, signal, sys
prctl = getattr(ctypes.CDLL(None), "prctl", None)
if prctl is not None:
    prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(75)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""A process that gets SIGTERM when its parent dies, however that happens (PR_SET_PDEATHSIG, which is 1 and outlives
exec), and then runs a command. Linux alone has it."""


def started(command: Sequence[str], log: Path, cores: set[int] | None) -> subprocess.Popen:
    """Starts a process that ends with this one, as by SIGTERM; its output is added to a log.

    Args:
      command: what it runs.
      log: a file, whose folder is made.
      cores: where it computes; None: on all.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _FOLLOW, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches it through us alone, once
        )
    if cores is not None:
        os.sched_setaffinity(process.pid, cores)  # before it has threads, which inherit it
    return process


@contextmanager
def signals_noted() -> Iterator[list[int]]:
    """Yields a list to which each SIGINT or SIGTERM received is added."""
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shares(jobs: int, *, cpu: bool) -> list[set[int] | None]:
    """Returns the cores of each job: a part of them on a CPU, None (all) where there is an accelerator.

    Raises:
      UserError: more jobs than cores, or none.
    """
    cores = sorted(os.sched_getaffinity(0))
    if jobs < 1 or (cpu and jobs > len(cores)):
        raise UserError(f"--jobs {jobs}: give 1{f' to {len(cores)}, one a core' if cpu else ' or more'}")
    return [set(cores[place::jobs]) if cpu and jobs > 1 else None for place in range(jobs)]


def program() -> list[str]:
    """Returns the command that trains: this repository's train.py, with this Python."""
    return [sys.executable, str(Path(__file__).parents[2] / "train.py")]
