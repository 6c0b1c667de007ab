"""train.py in one process of several, of which one gets something done to it: struck.py FAULT PHASE VICTIM FLAG ...

The victim is struck as it enters the phase. It writes the time into $STRUCK first. What differs in one process is
in its own variables: $FLAGS are flags that it has instead. Each process has a host name of its own, `host0` and so on.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import train
from transformer import command
from transformer.cluster import phases

LATE = 3.0
"""Seconds by which a process is late."""
SKIPPED = {"step": 1}
"""Phase -> how often it is entered before the victim is struck: the first step is the end of the compilation."""


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def fail() -> None:
    raise RuntimeError("struck on purpose")


def fill() -> None:
    """Leaves no byte on the disk of the run folder, which all processes share."""
    disk = Path(os.environ["DISK"])
    block = b"\0" * 2**20
    with open(disk / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while block:
            if ballast.write(block) < len(block):
                block = block[: len(block) // 2]


def be_late() -> None:
    time.sleep(LATE)


def never_come() -> None:
    time.sleep(10**6)


FAULTS: dict[str, Callable[[], None]] = {
    "kill": kill,
    "stop": stop,
    "raise": fail,
    "fill": fill,
    "late": be_late,
    "never": never_come,
}


def strike(fault: str) -> None:
    Path(os.environ["STRUCK"]).write_text(json.dumps(time.time()))
    FAULTS[fault]()


def strike_in(fault: str, phase: str) -> None:
    """Makes this process be struck as it enters a phase, once."""
    left = SKIPPED.get(phase, 0)

    def entered(*_: object) -> None:
        nonlocal left
        if phases.current().name == phase:
            left -= 1
            if left == -1:
                strike(fault)

    phases.listen(entered)


def main() -> None:
    fault, phase, victim, *args = sys.argv[1:]
    for flag, value in json.loads(os.environ.get("FLAGS", "{}")).items():
        if flag in args:
            args[args.index(flag) + 1] = value
        else:
            args += [flag, value]
    own = os.environ["JAX_PROCESS_ID"]
    socket.gethostname = lambda: f"host{own}"  # to the end of the process, which may say why it fails
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(train, "report", return_value=None))
        from transformer.training import loop, saving

        # The last save waits for room on a full disk, half an hour in all.
        stack.enter_context(mock.patch.object(saving, "_RETRY_SECONDS", 1.0))
        stack.enter_context(mock.patch.object(saving, "_RETRIES", 3))
        if own == victim and fault in FAULTS:
            if phase == "start" and fault in ("late", "never"):
                strike(fault)  # the others wait for it to join
            elif phase == "start":
                begin = loop.train

                def struck(*given, **options):
                    strike(fault)
                    return begin(*given, **options)

                stack.enter_context(mock.patch.object(loop, "train", struck))
            else:
                strike_in(fault, phase)
        train.main(args)


if __name__ == "__main__":
    command.end(command.run(main))
