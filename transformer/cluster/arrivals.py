"""Arrivals: all processes of a job find each other within a deadline, or each says who is missing.

JAX would abort a process that waits too long for the others, with a C++ trace.
"""

import collections
import contextlib
import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from transformer.cluster.agreement import coordinator_address, own_index, process_count
from transformer.errors import Late

_MARGIN = 60
"""Seconds that JAX is told to wait beyond the deadline, which is this module's to keep."""
_PROBE = 2.0
"""Seconds for the leading process to accept a connection."""
_ESTABLISHED = "01"


@contextlib.contextmanager
def awaited(seconds: float) -> Iterator[int]:
    """A context in which this process joins its job; ends the process with exit code 124 if that takes `seconds`.

    Gives the seconds that JAX is to wait for all processes: some more.
    """

    def end() -> None:
        message = f"error: {_who_is_missing(seconds)}"
        print(message, file=sys.stderr, flush=True)
        os._exit(Late.exit_code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield int(seconds + _MARGIN)
    finally:
        timer.cancel()


def _who_is_missing(seconds: float) -> str:
    """Returns why this process has waited for so long, as far as it can know."""
    within = f"within {seconds:g} s (--cluster.deadlines.start), in phase start"
    address = coordinator_address()
    if address is None:
        return f"this process, on {socket.gethostname()}, did not find out about its job {within}"
    own = f"process {own_index()} of {process_count()} on {socket.gethostname()}"
    host, _, port = address.rpartition(":")
    if own_index() > 0:
        with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE):
            return f"not all {process_count()} processes came {within}: process 0 says who is missing; this is {own}"
        return (
            f"process 0 of {process_count()} is not there at {address}, or cannot be reached, {within}; this is {own}"
        )
    count = process_count()
    came = connected(int(port))
    missing = count - sum(came.values())
    names = "process 1" if count == 2 else f"{missing} of {count} processes"
    who = f"; came: {', '.join(f'{n} from {host}' for host, n in came.items())}, this one among them" if came else ""
    return f"{names} did not come {within}: not started, or it cannot reach {address}{who}; this is {own}"


def connected(port: int, tables: tuple[str, ...] = ("/proc/net/tcp", "/proc/net/tcp6")) -> dict[str, int]:
    """Returns address -> the number of connections from there to a port of this machine; empty where Linux is not.

    JAX's service does not tell who has come, and each process that has keeps one connection to it.
    """
    found: collections.Counter[str] = collections.Counter()
    for table in tables:
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, remote, state, *_ = line.split()
                if state == _ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
                    found[_address(remote.partition(":")[0])] += 1
    return dict(found)


def _address(digits: str) -> str:
    """Returns an address that the kernel wrote as 32-bit words in this machine's order of bytes."""
    words = [int(digits[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(digits), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)
