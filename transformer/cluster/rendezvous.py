"""The rendezvous: all processes of a job come to the leading one before any of them starts JAX's service.

JAX is told a port in advance. It shares a port that another job listens on without a word (SO_REUSEPORT), and the
two jobs abort each other; where a process never comes, it aborts all others with a C++ trace. So the leading process
first listens by itself, on the first of the job's ports that nobody has. The others look for it there and know it by
the job's name. Once all have come, JAX's service takes this port.
"""

import contextlib
import dataclasses
import errno
import itertools
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from transformer.cluster.deadlines import NO_DEADLINE, flag, within_start
from transformer.cluster.launchers import ADDRESS, COUNT, Launch
from transformer.errors import Late, UserError

_CONNECT, _WELCOME, _AGAIN = 3.0, 3.0, 0.25
"""Seconds to wait for a connection, for the first answer on it, and before the next look."""
_BUSY = 15.0
"""Seconds that a port which was given may be busy, as it is while an earlier attempt ends."""
_SAID = 30.0
"""Seconds after which a process that still waits says for whom."""
_WORD = 10.0
"""Seconds past the deadline in which the leading process names who is missing."""


def meet(launch: Launch, *, deadline: float) -> str:
    """Returns where JAX's service of the job is, HOST:PORT, once all processes have come.

    Args:
      launch: what the launcher told this process.
      deadline: seconds to wait for the last.

    Raises:
      Late: some did not come; the message names them, or says where the leading process was looked for.
      UserError: two have one number, or they do not agree on how many they are, or the port that was given is taken.
    """
    until = time.monotonic() + deadline
    if launch.index > 0:
        return _come(launch, until, deadline)
    with _serving(launch, until) as server:
        arrivals = _Arrivals(launch, server)
        try:
            arrivals.wait(until, deadline)
        except UserError as error:
            arrivals.tell({"error": str(error), "exit_code": error.exit_code})
            raise
        port = server.getsockname()[1]
    arrivals.tell({"go": True})  # now that this server is gone: a client of JAX's must not reach it
    return f"localhost:{port}"


def listening(port: int) -> socket.socket:
    """Returns a server on a port of this machine, 0 for any that is free, which thousands may come to at once."""
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=4096)


@contextlib.contextmanager
def _serving(launch: Launch, until: float) -> Iterator[socket.socket]:
    """A context with a server on the first of the job's ports that is free."""
    busy_until = min(until, time.monotonic() + _BUSY)
    while True:
        for port in launch.ports:
            try:
                server = listening(port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise UserError(
                        f"{launch.name}: port {port} of {socket.gethostname()}: {error.strerror}"
                    ) from error
                continue
            with server:
                yield server
            return
        if time.monotonic() > busy_until:
            ports = " and ".join(map(str, launch.ports))
            raise UserError(
                f"{launch.name}: another program listens on port {ports} of {socket.gethostname()}: choose another "
                f"port in {ADDRESS}"
            )
        time.sleep(_AGAIN)


@dataclasses.dataclass
class _Visitor:
    """A connection, and who came by it, once that is known."""

    connection: socket.socket
    received: bytes = b""
    index: int | None = None
    name: str = ""


class _Arrivals:
    """Who has come to the leading process."""

    def __init__(self, launch: Launch, server: socket.socket):
        self._launch, self._server = launch, server
        self._there: dict[int, _Visitor] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(server, selectors.EVENT_READ)

    def wait(self, until: float, deadline: float) -> None:
        """Waits until all have come; raises `Late`, which names those that have not."""
        say_at = time.monotonic() + _SAID
        while len(self._there) < self._launch.count - 1:
            now = time.monotonic()
            if now >= until:
                raise Late(f"{self._missing()} {within_start(deadline)}")
            if now >= say_at:
                _say_waiting(self._missing(), deadline)
                say_at = until
            for key, _ in self._selector.select(min(until, say_at) - now):
                if key.fileobj is self._server:
                    self._accept()
                else:
                    self._hear(key.data)

    def tell(self, message: dict[str, Any]) -> None:
        """Sends a last message to all who came."""
        for key in list(self._selector.get_map().values()):
            if key.fileobj is not self._server:
                with contextlib.suppress(OSError):
                    key.data.connection.sendall(_line(message))
                key.data.connection.close()
        self._selector.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._server.accept()
            connection.settimeout(_CONNECT)  # to write: it is read when it has something to say
            self._selector.register(connection, selectors.EVENT_READ, _Visitor(connection))

    def _hear(self, visitor: _Visitor) -> None:
        try:
            received = visitor.connection.recv(4096)
        except OSError:
            received = b""
        visitor.received += received
        if not received or len(visitor.received) > 4096:
            self._drop(visitor)
        elif visitor.index is None and b"\n" in visitor.received:
            self._welcome(visitor)

    def _welcome(self, visitor: _Visitor) -> None:
        hello = _parsed(visitor.received)
        if hello.get("job") != self._launch.job:  # a stranger, or another attempt
            self._drop(visitor)
            return
        index, count, name = int(hello["index"]), int(hello["count"]), str(hello["name"])
        with contextlib.suppress(OSError):
            visitor.connection.sendall(_line({"job": self._launch.job}))
        if count != self._launch.count:
            raise UserError(
                f"{self._launch.name}: {name} is one of {count} processes, and the leading one of "
                f"{self._launch.count}: {COUNT} must be the same for all"
            )
        if index == 0 or index in self._there:
            other = self._there[index].name if index else _own_name()
            raise UserError(f"{self._launch.name}: {name} and {other} are both process {index} of {count}")
        visitor.index, visitor.name = index, name
        self._there[index] = visitor

    def _drop(self, visitor: _Visitor) -> None:
        self._selector.unregister(visitor.connection)
        visitor.connection.close()
        if visitor.index is not None:
            del self._there[visitor.index]

    def _missing(self) -> str:
        missing = [str(index) for index in range(1, self._launch.count) if index not in self._there]
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        return (
            f"{self._launch.name}: process{'es' if len(missing) > 1 else ''} {', '.join(missing[:8])}{more} of "
            f"{self._launch.count} did not come to {socket.gethostname()}"
        )


def _come(launch: Launch, until: float, deadline: float) -> str:
    """Finds the leading process, and waits there for the others; returns its address."""
    hello = _line({"job": launch.job, "index": launch.index, "count": launch.count, "name": _own_name()})
    own = f"{launch.name}: process {launch.index} of {launch.count} on {socket.gethostname()} did not find process 0"
    ports, refused = ", ".join(map(str, launch.ports)), dict[str, str]()
    say_at = time.monotonic() + _SAID
    while time.monotonic() < until:
        for host, port in itertools.product(launch.hosts, launch.ports):
            try:
                with socket.create_connection((host, port), timeout=_CONNECT) as connection:
                    refused.pop(host, None)
                    connection.sendall(hello)
                    if _waited(connection, launch.job, until):
                        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            except OSError as error:
                refused[host] = (error.strerror or str(error)).lower()
        if time.monotonic() >= say_at:
            _say_waiting(f"{own} at {_places(launch.hosts, refused)}, port {ports}", deadline)
            say_at = until
        time.sleep(_AGAIN)
    raise Late(
        f"{own} {within_start(deadline)} at {_places(launch.hosts, refused)}, port {ports}; if it runs elsewhere, set "
        f"{ADDRESS}=HOST:PORT for all"
    )


def _places(hosts: Sequence[str], refused: Mapping[str, str]) -> str:
    """Returns where the leading process was looked for, and what the last look met."""
    places = (f"{host} ({refused[host]})" if host in refused else host for host in hosts)
    return " or ".join(places) or "no machine"


def _say_waiting(who: str, deadline: float) -> None:
    until = "waits on" if deadline >= NO_DEADLINE else f"waits until {deadline:g} s ({flag('start')})"
    print(f"{who} within {_SAID:g} s; {until}", file=sys.stderr, flush=True)


def _waited(connection: socket.socket, job: str, until: float) -> bool:
    """Whether the leading process answered and said that all have come; raises the error that it says."""
    connection.settimeout(_WELCOME)
    with connection.makefile("rb") as lines:
        if _parsed(lines.readline(4096)).get("job") != job:
            return False
        connection.settimeout(max(until - time.monotonic(), 0) + _WORD)
        answer = _parsed(lines.readline(65536))
    if "error" in answer:
        error = UserError(answer["error"])
        error.exit_code = answer["exit_code"]
        raise error
    return bool(answer.get("go"))


def _own_name() -> str:
    return f"pid {os.getpid()} on {socket.gethostname()}"


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    """Returns a message; nothing of what a stranger says."""
    with contextlib.suppress(ValueError):
        message = json.loads(line)
        if isinstance(message, dict):
            return message
    return {}
