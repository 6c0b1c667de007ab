"""Real processes of one job, on this machine: each with devices of its own, joined by JAX's coordination service."""

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent

# What a program that is given as text begins with: it has joined the others, and ends as a tool does.
PREAMBLE = """
import sys
from transformer import command

def main():
{body}

def joined():
    command.start_jax(distributed={distributed})
    main()

if __name__ == "__main__":
    sys.exit(command.run(joined))
"""

BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""The variables by which the processes find each other."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


@contextlib.contextmanager
def started(
    args: Sequence[str], count: int, *, devices: int = 1, env: Mapping[int, Mapping[str, str]] | None = None
) -> Iterator[list[subprocess.Popen]]:
    """Starts `python ARGS` as `count` processes that find each other; none of them outlives the block.

    Args:
      args: of Python; with several processes `train.py` needs `--distributed` among them.
      devices: of each process.
      env: process -> variables of its own.
    """
    common = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(ROOT),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": str(count),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, *args],
            env=common | {"JAX_PROCESS_ID": str(index)} | dict((env or {}).get(index, {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def run(args: Sequence[str], count: int, *, timeout: float = 180, **options) -> list[Ended]:
    """Returns how the processes of `started` ended, by index; those that do not in `timeout` seconds fail the test."""
    with started(args, count, **options) as processes:
        return ended(processes, timeout=timeout)


def run_program(body: str, count: int, **options) -> list[Ended]:
    """Returns how processes ended that each ran the function body `body` (indented by four), joined if several."""
    return run(["-c", PREAMBLE.format(body=body, distributed=count > 1)], count, **options)


def ended(processes: Sequence[subprocess.Popen], *, timeout: float = 180) -> list[Ended]:
    """Waits for processes, and returns how they ended."""
    results = []
    for process in processes:
        out, err = process.communicate(timeout=timeout)
        results.append(Ended(process.returncode, out, err))
    return results


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
