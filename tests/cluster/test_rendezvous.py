"""The rendezvous, by threads: all come or the missing are named, whoever else listens on the job's ports."""

import concurrent.futures
import contextlib
import dataclasses
import re
import socket
import threading

import pytest

from tests.processes import free_port
from transformer.cluster.launchers import Launch
from transformer.cluster.rendezvous import Late, meet
from transformer.errors import UserError


def job(count, ports=None, name="a job"):
    """Returns the launches of a job's processes on this machine."""
    ports = ports or tuple(free_port() for _ in range(3))
    return [Launch("Slurm", index, count, ("localhost",), ports, name) for index in range(count)]


def met(launches, deadline=30.0):
    """Returns how the meeting ended for each process: an address, or an error."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=len(launches)) as pool:
        futures = [pool.submit(meet, launch, deadline=deadline) for launch in launches]
        return [future.exception() or future.result() for future in futures]


def test_all_learn_the_same_port_which_is_free_then():
    launches = job(5)
    [address] = set(met(launches))
    port = int(address.rpartition(":")[2])
    assert port == launches[0].ports[0]
    socket.create_server(("", port)).close()


@contextlib.contextmanager
def stranger(port, answer):
    """A context of another program on a port, which says something to all who come."""
    with socket.create_server(("", port)) as server:

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b'{"job": "another"}\n', b"[1]\n", b"\xff\n"]
)
def test_a_port_that_another_program_has_is_left_to_it(answer):
    launches = job(2)
    with stranger(launches[0].ports[0], answer):
        [address] = set(met(launches))
    assert address == f"localhost:{launches[0].ports[1]}"


def test_two_jobs_with_the_same_ports_do_not_mix():
    ports = tuple(free_port() for _ in range(2))
    first, second = job(3, ports, "first"), job(3, ports, "second")
    addresses = met([launch for pair in zip(first, second, strict=True) for launch in pair])
    assert len(set(addresses[::2])) == len(set(addresses[1::2])) == 1
    assert set(addresses) == {f"localhost:{port}" for port in ports}


def test_those_who_do_not_come_are_named_to_all():
    launches = job(4)
    first, last = met([launches[0], launches[2]], deadline=1.0)
    for error in (first, last):
        assert str(error).startswith(
            f"Slurm: processes 1, 3 of 4 did not come to {socket.gethostname()} within 1 s in "
        )
        assert error.exit_code == 124


def test_a_leading_process_that_does_not_come_is_said():
    launches = job(4)
    [error] = met([launches[3]], deadline=1.0)
    assert isinstance(error, Late)
    who = f"process 3 of 4 on {socket.gethostname()}"
    words = (
        f"{who} did not find process 0 within 1 s in phase start (--cluster.deadlines.start) at localhost "
        "(connection refused), port "
    )
    assert words in str(error)


def test_why_the_leading_process_was_not_found_is_said():
    [launch] = [dataclasses.replace(each, hosts=("localhost", "nowhere.invalid")) for each in job(2)[1:]]
    [error] = met([launch], deadline=1.0)
    assert re.search(r"at localhost \(connection refused\) or nowhere\.invalid \(.*name.*\), port ", str(error))


def test_a_process_that_waits_says_for_whom(monkeypatch, capfd):
    monkeypatch.setattr("transformer.cluster.rendezvous._SAID", 0.3)
    launches = job(4)
    met([launches[0], launches[2]], deadline=1.5)
    met([launches[3]], deadline=1.5)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    host, waits = socket.gethostname(), "within 0.3 s; waits until 1.5 s (--cluster.deadlines.start)"
    assert lines[0] == f"Slurm: processes 1, 3 of 4 did not come to {host} {waits}"
    assert lines[1].startswith(f"Slurm: process 3 of 4 on {host} did not find process 0 at localhost (connection ")
    assert lines[1].endswith(waits)


def test_one_that_went_while_it_waited_may_come_again():
    launches = job(2)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        leading = pool.submit(meet, dataclasses.replace(launches[0], count=3), deadline=30.0)
        [gone] = met([dataclasses.replace(launches[1], count=3, job="a stranger")], deadline=0.5)
        assert isinstance(gone, Late)
        others = [
            pool.submit(meet, dataclasses.replace(launches[1], count=3, index=index), deadline=30.0) for index in (1, 2)
        ]
        assert len({leading.result(), *(other.result() for other in others)}) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"index": 1}, "are both process 1 of 3"),
        ({"count": 2, "index": 1}, "JAX_NUM_PROCESSES must be the same for all"),
    ],
)
def test_processes_that_contradict_each_other_are_refused(changes, words):
    launches = job(3)
    errors = met([launches[0], launches[1], dataclasses.replace(launches[2], **changes)], deadline=5.0)
    assert words in str(errors[0])
    assert any(str(error) == str(errors[0]) for error in errors[1:])
    assert all(isinstance(error, UserError) for error in errors)


def test_the_one_port_that_was_given_may_be_taken(monkeypatch):
    monkeypatch.setattr("transformer.cluster.rendezvous._BUSY", 0.3)
    [launch, _] = job(2, (free_port(),))
    with stranger(launch.ports[0], b""), pytest.raises(UserError, match="another program listens on port") as error:
        meet(launch, deadline=5.0)
    assert error.value.exit_code == 2
