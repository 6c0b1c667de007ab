"""Presence of the other processes of a job: the kernel closes a process's connections when it dies.

Each process keeps a connection to the leading one. Its end shows at once that a process was killed, and within a minute
that its machine went (TCP's keepalive). JAX's own heartbeats, of 100 s, would end a process with a C++ trace. Where no
connection can be made (a firewall between the machines), these heartbeats remain.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import select
import selectors
import socket
from typing import Any

import jax

from transformer.cluster.agreement import coordination, coordinator_host, own_index, process_name
from transformer.cluster.rendezvous import listening

_KEY = "transformer/presence"
_CONNECT = 20.0
"""Seconds to find the leading process."""
_HELLO = 5.0
"""Seconds that a process gets to name itself."""
_FAREWELL = b"."


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another process of the job."""

    process: int
    host: str
    name: str


class Peers:
    """The connections of this process: the leading one's to all others, another's to the leading one.

    For one thread alone. A process without a connection is never missed.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._server: socket.socket | None = None
        self._lead: tuple[socket.socket, Peer] | None = None
        self._lead_gone: Peer | None = None
        self._token = ""
        with contextlib.suppress(OSError, ValueError, jax.errors.JaxRuntimeError):
            if own_index() == 0:
                self._listen()
            else:
                self._connect()

    def missed(self, seconds: float) -> Peer | None:
        """Waits up to `seconds` for news; returns a process that went without a farewell, or None."""
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._server:
                self._welcome()
                continue
            received = _received(key.fileobj)
            if received is None and self._lead is not None:
                self._lead_gone = key.data
            if received is None or _FAREWELL in received:
                self._selector.unregister(key.fileobj)
                key.fileobj.close()  # pyright: ignore[reportAttributeAccessIssue]
            if received is None:
                return key.data
        return None

    def lead_missed(self, seconds: float) -> Peer | None:
        """Returns the leading process if it is gone, as `missed` does; any thread may call it."""
        connection, peer = self._lead or (None, None)
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile, after a farewell
            if connection is not None and select.select([connection], [], [], seconds)[0]:
                try:
                    return None if connection.recv(1, socket.MSG_PEEK) else peer
                except ConnectionError:
                    return peer
        return self._lead_gone

    def close(self) -> None:
        """Sends a farewell on every connection and closes it."""
        for key in list(self._selector.get_map().values()):
            with contextlib.suppress(OSError):
                if key.fileobj is not self._server:
                    key.fileobj.sendall(_FAREWELL)  # pyright: ignore[reportAttributeAccessIssue]
                key.fileobj.close()  # pyright: ignore[reportAttributeAccessIssue]
        self._selector.close()

    def _listen(self) -> None:
        self._server = listening(0)
        self._selector.register(self._server, selectors.EVENT_READ)
        self._token = secrets.token_hex(16)
        record = {"port": self._server.getsockname()[1], "token": self._token, **_own_record()}
        coordination().key_value_set(_KEY, json.dumps(record))

    def _connect(self) -> None:
        record = json.loads(coordination().blocking_key_value_get(_KEY, int(1000 * _CONNECT)))
        connection = socket.create_connection((coordinator_host(), record["port"]), timeout=_CONNECT)
        connection.settimeout(None)
        connection.sendall(json.dumps({"token": record["token"], **_own_record()}).encode() + b"\n")
        lead = Peer(record["process"], record["host"], record["name"])
        self._lead = connection, lead
        self._keep(connection, lead)

    def _welcome(self) -> None:
        assert self._server is not None
        with contextlib.suppress(OSError, ValueError, KeyError):
            connection, _ = self._server.accept()
            connection.settimeout(_HELLO)
            record: Any = json.loads(connection.recv(4096))
            if not isinstance(record, dict) or record.get("token") != self._token:  # a stranger
                connection.close()
                return
            connection.settimeout(None)
            self._keep(connection, Peer(int(record["process"]), str(record["host"]), str(record["name"])))

    def _keep(self, connection: socket.socket, peer: Peer) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
        self._selector.register(connection, selectors.EVENT_READ, peer)


def _own_record() -> dict[str, Any]:
    host = socket.gethostname()
    return {"process": own_index(), "host": host, "name": f"{process_name()} (pid {os.getpid()} on {host})"}


def _received(connection: Any) -> bytes | None:
    """Returns the bytes received; None where the other side is gone."""
    try:
        return connection.recv(64) or None
    except OSError:
        return None
