"""Launchers, by the environments that they make: Slurm's and Open MPI's are as their real processes printed them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.cluster import launchers
from transformer.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "gpu[07-09,12]",
    "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
}
# What a batch script sees, and so a process that it starts without srun.
BATCH = {name: value for name, value in SLURM.items() if "STEP" not in name} | {"SLURM_PROCID": "0"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
}
OPEN_MPI_4 = OPEN_MPI | {
    "OMPI_MCA_orte_hnp_uri": "1793458176.0;tcp://192.0.2.2,198.51.100.7:49487;tcp6://[fd00::2]:60091",
    "PMIX_NAMESPACE": "1793458177",
    "PMIX_SERVER_URI41": "1793458176.0;tcp4://127.0.0.1:35543",
}
OPEN_MPI_5 = OPEN_MPI | {
    "PMIX_NAMESPACE": "prterun-node-a-1573@1",
    "PMIX_SERVER_URI41": "prterun-node-a-1573@0.0;tcp4://127.0.0.1:41925",
    "PRTE_LAUNCHED": "1",
}
KUBERNETES = {
    "HOSTNAME": "train-workers-0-2",
    "JAX_COORDINATOR_ADDRESS": "train-workers-0-0.train:8476",
    "JAX_NUM_PROCESSES": "4",
    "JOB_COMPLETION_INDEX": "2",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
}
TPU = {"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "tpu-0.tpu,tpu-1.tpu"}
BY_HAND = {"JAX_COORDINATOR_ADDRESS": "[fd00::2]:1234", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}


@pytest.mark.parametrize(
    ("environ", "name", "index", "count", "hosts"),
    [
        (SLURM, "Slurm", 1, 4, ("gpu07",)),
        (OPEN_MPI_4, "Open MPI", 3, 4, ("192.0.2.2", "198.51.100.7", "fd00::2")),
        (OPEN_MPI_5, "Open MPI", 3, 4, ("node-a",)),
        # mpirun in an allocation: its processes have what Slurm told the batch script, or the daemons of other nodes.
        (SLURM | OPEN_MPI_5, "Open MPI", 3, 4, ("node-a", "gpu07")),
        (OPEN_MPI_5 | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, "Open MPI", 3, 4, ("localhost",)),
        (KUBERNETES, "Kubernetes", 2, 4, ("train-workers-0-0.train",)),
        (TPU, "Cloud TPU", 1, 2, ("tpu-0.tpu",)),
        (
            TPU | {"MEGASCALE_COORDINATOR_ADDRESS": "a-0.a:80", "MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2"},
            "Cloud TPU", 5, 6, ("a-0.a",),
        ),
        (BY_HAND, "JAX's variables", 1, 2, ("fd00::2",)),
        (SLURM | BY_HAND, "JAX's variables", 1, 2, ("fd00::2",)),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "head:1234"}, "Slurm", 1, 4, ("head",)),
    ],
)  # fmt: skip
def test_each_launcher_is_known_by_its_variables(environ, name, index, count, hosts):
    launch = launchers.find(environ)
    assert (launch.name, launch.index, launch.count, launch.hosts) == (name, index, count, hosts)
    assert launch.ports


@pytest.mark.parametrize("base", [SLURM, OPEN_MPI_4, OPEN_MPI_5])
def test_all_processes_of_an_attempt_know_the_same_ports_and_no_other_attempt_does(base):
    launch = launchers.find(base)
    ranks = {"SLURM_PROCID": "0", "SLURM_NODEID": "0", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    leading = launchers.find(base | {name: value for name, value in ranks.items() if name in base})
    assert (leading.ports, leading.job, leading.hosts) == (launch.ports, launch.job, launch.hosts)
    others = [
        {"SLURM_JOB_ID": "4712"}, {"SLURM_STEP_ID": "1"}, {"SLURM_RESTART_COUNT": "1"},
    ] if base is SLURM else [
        {"PMIX_NAMESPACE": "prterun-node-a-1574@1", "OMPI_MCA_orte_hnp_uri": "17934581777.0;tcp://192.0.2.2:4"},
    ]  # fmt: skip
    for other in others:
        environ = base | {name: value for name, value in other.items() if name in base or "RESTART" in name}
        assert launchers.find(environ).ports != launch.ports
        assert launchers.find(environ).job != launch.job


def test_ports_are_below_those_that_linux_gives_to_connections():
    for job in range(500):
        ports = launchers.find(SLURM | {"SLURM_JOB_ID": str(job)}).ports
        assert all(20_000 <= port < 32_000 for port in ports)
    assert launchers.find(SLURM | {"SLURM_STEP_RESV_PORTS": "12000-12001,12005"}).ports == (12000, 12001, 12005)
    assert launchers.find(SLURM | {"JAX_COORDINATOR_PORT": "7777"}).ports == (7777,)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "no launcher found: start it with srun or mpirun"),
        (BATCH, "in Slurm's job 4711, but not started by srun: put srun before python"),
        ({"JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES not set"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}, "in Kubernetes, set JAX_NUM_PROCESSES"),
        (SLURM | {"SLURM_STEP_RESV_PORTS": "12000-x"}, "SLURM_STEP_RESV_PORTS names port 'x': a port is a number"),
        (TPU | {"MEGASCALE_NUM_SLICES": "two"}, "MEGASCALE_NUM_SLICES is 'two': it must be a number"),
        (BY_HAND | {"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID is 'one': it must be a number"),
        (BY_HAND | {"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID is '-1': it must be a number, from 0 on"),
        (BY_HAND | {"JAX_PROCESS_ID": "2"}, "process 2 of 2, which are numbered from 0 to 1"),
        (BY_HAND | {"JAX_NUM_PROCESSES": "0"}, "0 processes"),
        (BY_HAND | {"JAX_COORDINATOR_ADDRESS": "head"}, "it must be HOST:PORT"),
        (BY_HAND | {"JAX_COORDINATOR_ADDRESS": "head:http"}, "names port 'http'"),
        (BY_HAND | {"JAX_COORDINATOR_ADDRESS": "head:70000"}, "names port '70000'"),
        (SLURM | {"JAX_COORDINATOR_PORT": ""}, "JAX_COORDINATOR_PORT names port ''"),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_a_line(environ, words):
    with pytest.raises(UserError) as error:
        launchers.find(environ)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@given(st.integers(1, 3), st.integers(0, 120), st.integers(1, 20), st.booleans())
def test_the_first_host_of_slurms_notation(width, first, more, other):
    names = [f"n{number:0{width}}x" for number in range(first, first + more)]
    text = f"n[{first:0{width}}-{first + more - 1:0{width}}]x" if more > 1 else names[0]
    assert launchers.first_host(text + (",a[1-2]" if other else "")) == names[0]


def test_the_first_host_of_several_dimensions():
    assert launchers.first_host("rack[2-3]node[07,09-11],rack9node1") == "rack2node07"
