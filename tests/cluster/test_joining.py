"""Joining, by real processes with the variables of launchers: who found them is said once, a mistake in a line."""

import socket

import pytest

from tests import processes
from tests.cluster.test_launchers import OPEN_MPI_5

BODY = """
    import jax
    print(jax.process_index(), jax.device_count(), jax.local_device_count(), flush=True)
"""
SAID = "distributed: "


def said(ended):
    return [[line for line in one.err.splitlines() if line.startswith(SAID)] for one in ended]


@pytest.mark.exhaustive
def test_processes_of_open_mpi_5_find_each_other_past_a_proxy():
    job = OPEN_MPI_5 | {"PMIX_NAMESPACE": f"prterun-{socket.gethostname()}-{processes.free_port()}@1"}
    job |= {"OMPI_COMM_WORLD_SIZE": "2", "http_proxy": "http://localhost:9", "no_proxy": "example.org"}
    env = {index: job | {"OMPI_COMM_WORLD_RANK": str(index)} for index in range(2)}
    launched = processes.PREAMBLE.format(body=BODY, distributed=True)
    launched = f"import os\nfor name in {processes.BY_HAND}: del os.environ[name]\n" + launched
    both = processes.run(["-c", launched], 2, devices=4, env=env)
    assert [one.code for one in both] == [0, 0], both
    assert [one.out for one in both] == ["0 8 4\n", "1 8 4\n"]
    assert said(both) == [["distributed: Open MPI, 2 processes on 1 host, 8 devices"], []]
    assert "proxy" not in both[0].err


PARTIAL = """
    from transformer.cluster.joining import require_all
    require_all(8)
    require_all(1)
"""


def test_one_process_is_a_job_too_and_uses_all_devices():
    [alone] = processes.run(["-c", processes.PREAMBLE.format(body=BODY + PARTIAL, distributed=True)], 1, devices=8)
    assert (alone.code, alone.out) == (2, "0 8 8\n"), alone.err
    assert alone.error_lines == [
        f"error: {socket.gethostname()}: this job has 8 devices and its mesh uses 1 of them: raise --mesh.* until "
        "it uses all, or say --shared-hosts if the others are not this job's"
    ]
    assert said([alone]) == [["distributed: JAX's variables, 1 process on 1 host, 8 devices"]]


@pytest.mark.exhaustive
def test_a_mistake_in_the_variables_is_a_line():
    [one] = processes.run(
        ["-c", processes.PREAMBLE.format(body=BODY, distributed=True)], 1, env={0: {"JAX_PROCESS_ID": "first"}}
    )
    assert (one.code, one.out) == (2, "")
    assert one.error_lines == ["error: JAX_PROCESS_ID is 'first': it must be a number, from 0 on"]


@pytest.mark.exhaustive
def test_devices_that_jax_cannot_start_on_are_a_line():
    [one] = processes.run(
        ["-c", processes.PREAMBLE.format(body=BODY, distributed=True)], 1, env={0: {"JAX_PLATFORMS": "cuda"}}
    )
    assert (one.code, one.out) == (2, ""), one.err
    [line] = one.error_lines
    assert line.startswith(f"error: JAX cannot start on the devices of {socket.gethostname()}: ")


DIES = """
import os
from transformer import command
from transformer.cluster import joining
from transformer.cluster.config import Deadlines

meet = joining.meet

def dies(*given, **options):
    meet(*given, **options)
    os._exit(9)

if os.environ["JAX_PROCESS_ID"] == "{victim}":
    joining.meet = dies
command.end(command.run(lambda: command.start_jax(distributed=True, deadlines=Deadlines(start=10.0))))
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_between_the_meeting_and_jaxs_service_is_a_line(victim):
    both = processes.run(["-c", DIES.format(victim=victim)], 2)
    assert both[victim].code == 9, both[victim].err
    other = both[1 - victim]
    assert other.code == 124, other.err
    [line] = other.error_lines
    assert line.startswith(
        "error: JAX's variables: all 2 processes met, but not all joined JAX's service at localhost:"
    )
    assert " within 10 s in phase start (--cluster.deadlines.start): one has ended since, or cannot reach it; " in line
    assert line.endswith(f"this is process {1 - victim} on {socket.gethostname()}")


STOPS = """
import os, signal, subprocess, time
from transformer import command
from transformer.cluster import agreement, joining
from transformer.cluster.config import Deadlines

meet = agreement._meet

def stops(views):
    subprocess.Popen(["sh", "-c", f"sleep 30; kill -9 {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)

def asks_later(*given):
    folder = meet(*given)
    time.sleep(2)
    return folder

if os.environ["JAX_PROCESS_ID"] == "0":
    joining.devices.divide = stops
else:
    agreement._meet = asks_later
command.end(command.run(lambda: command.start_jax(distributed=True, deadlines=Deadlines(start=10.0))))
"""


@pytest.mark.exhaustive
def test_a_leading_process_that_is_stopped_while_it_is_asked_is_a_line():
    """A question to its service has no deadline, and JAX would abort the process that asks without one of our lines."""
    _, other = processes.run(["-c", STOPS], 2)
    assert other.code == 124, other.err
    [line] = other.error_lines
    assert line.startswith(
        "error: JAX's variables: the leading process does not answer within 10 s in phase start (--cluster.deadlines."
    )
    assert line.endswith(f"this is process 1 on {socket.gethostname()}")
