"""Launchers: what started this process as one of several, read off its environment variables alone.

Each of them tells a process its number and how many there are. Where the leading process listens follows from what all
processes know: the machine, and a few ports that are derived from the job and the attempt.
"""

import dataclasses
import hashlib
import importlib.util
import re
from collections.abc import Mapping
from typing import Any

from transformer.errors import UserError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""JAX's own variables, which hold before what a launcher says."""
_PORT = "JAX_COORDINATOR_PORT"
_FIRST_PORT, _PORT_RANGE, _PORTS = 20_000, 12_000, 8
"""Ports lie below 32768, from where on Linux takes those of outgoing connections."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """What a launcher told this process."""

    name: str
    """The launcher's name in messages."""
    index: int
    """This process's, from 0, the leading one's."""
    count: int
    """Processes of the job."""
    hosts: tuple[str, ...]
    """Names or addresses of the leading process's machine, the likeliest first."""
    ports: tuple[int, ...]
    """Where the leading process may listen: it takes the first that is free."""
    job: str
    """The same in all processes of this attempt, and in no other job of this launcher."""


def find(environ: Mapping[str, str]) -> Launch:
    """Returns how this process was launched.

    JAX's three variables together say everything. Under a launcher each of them replaces what the launcher says, and
    `JAX_COORDINATOR_PORT` fixes the port.

    Raises:
      UserError: nothing is known, or it contradicts itself; the message says what to set.
    """
    if all(name in environ for name in (ADDRESS, COUNT, INDEX)):
        launch = None
    else:
        launchers = (_open_mpi, _slurm, _gke_tpu, _gce_tpu, _kubernetes)
        launch = next(filter(None, (launcher(environ) for launcher in launchers)), None)
    return _checked(_given(environ, launch))


def _given(environ: Mapping[str, str], launch: Launch | None) -> Launch:
    """Returns a launch with what JAX's variables say in place of what the launcher says."""
    names = (ADDRESS, COUNT, INDEX)
    if launch is None:
        if lacking := [name for name in names if name not in environ]:
            raise UserError(_nothing(environ, lacking))
        launch = Launch("JAX's variables", 0, 1, (), (), "")
    changes: dict[str, Any] = {}
    if _PORT in environ:
        changes["ports"] = (_port(_PORT, environ[_PORT]),)
    if ADDRESS in environ:
        host, _, port = environ[ADDRESS].rpartition(":")
        if not host:
            raise UserError(f"{ADDRESS} is {environ[ADDRESS]!r}: it must be HOST:PORT, of the machine of process 0")
        changes |= {"hosts": (host.strip("[]"),), "ports": (_port(ADDRESS, port),), "job": f"port {port}"}
    if COUNT in environ:
        changes["count"] = _number(environ, COUNT)
    if INDEX in environ:
        changes["index"] = _number(environ, INDEX)
    return dataclasses.replace(launch, **changes)


def _checked(launch: Launch) -> Launch:
    if launch.count < 1:
        raise UserError(f"{launch.name}: {launch.count} processes: set {COUNT} to how many there are")
    if not 0 <= launch.index < launch.count:
        raise UserError(
            f"{launch.name}: this is process {launch.index} of {launch.count}, which are numbered from 0 to "
            f"{launch.count - 1}: mend {INDEX} or {COUNT}"
        )
    return launch


def _nothing(environ: Mapping[str, str], lacking: list[str]) -> str:
    by_hand = f"{ADDRESS} (HOST:PORT of process 0), {COUNT} and {INDEX}"
    if "SLURM_JOB_ID" in environ and len(lacking) == 3:
        return (
            f"--distributed: in Slurm's job {environ['SLURM_JOB_ID']}, but not started by srun: put srun before python"
        )
    if "KUBERNETES_SERVICE_HOST" in environ and "JOB_COMPLETION_INDEX" in environ:
        return (
            f"--distributed: in Kubernetes, set {COUNT} to the Job's parallelism and {ADDRESS} to NAME:PORT of its "
            "first pod, as tools/launch/kubernetes.yaml does, or install the extra `kubernetes`"
        )
    if len(lacking) < 3:
        return f"--distributed: {' and '.join(lacking)} not set: by hand, a process needs {by_hand}"
    return (
        "--distributed: no launcher found: start it with srun or mpirun, as an indexed Job of Kubernetes, or set "
        f"{by_hand}"
    )


def _open_mpi(environ: Mapping[str, str]) -> Launch | None:
    """Open MPI 4 (ORTE) and 5 (PRRTE), by `mpirun`. Under Slurm `mpirun` inherits its variables, so it is asked first.

    Process 0 is taken to be on `mpirun`'s machine or on the first of the allocation: neither version tells.
    """
    needed = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")
    orte, namespace = environ.get("OMPI_MCA_orte_hnp_uri"), environ.get("PMIX_NAMESPACE")
    if any(name not in environ for name in needed) or (orte is None and namespace is None):
        return None
    index, count = (_number(environ, name) for name in needed)
    if orte is not None:  # 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911;tcp6://[fe80::b9b]:43370
        job = orte.partition(".")[0]
        texts = re.findall(r"tcp6?://([^;]+):\d+", orte)
        hosts = [host for text in texts for host in re.sub(r"[\[\]]", "", text).split(",")]
    else:  # prterun-HOST-PID@1
        assert namespace is not None
        job, named = namespace, re.fullmatch(r"[a-z]+-(.+)-\d+@\d+", namespace)
        hosts = [named[1]] if named else []
    if environ.get("OMPI_COMM_WORLD_LOCAL_SIZE") == environ["OMPI_COMM_WORLD_SIZE"]:
        hosts = ["localhost"]
    elif "SLURM_JOB_NODELIST" in environ:
        hosts.append(first_host(environ["SLURM_JOB_NODELIST"]))
    elif environ.get("LSB_HOSTS"):
        hosts.append(environ["LSB_HOSTS"].split()[0])
    job = f"Open MPI {job}"
    return Launch("Open MPI", index, count, tuple(dict.fromkeys(hosts)), _ports(job), job)


def _slurm(environ: Mapping[str, str]) -> Launch | None:
    """Slurm, by `srun`: in a step, which the batch script itself is not."""
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_NTASKS")
    if any(name not in environ for name in needed):
        return None
    job = "Slurm {}.{} start {}".format(
        environ["SLURM_JOB_ID"], environ.get("SLURM_STEP_ID", 0), environ.get("SLURM_RESTART_COUNT", 0)
    )
    count = _number(environ, "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS")
    host = first_host(environ["SLURM_STEP_NODELIST"])  # where every distribution but `arbitrary` begins
    return Launch("Slurm", _number(environ, "SLURM_PROCID"), count, (host,), _reserved(environ) or _ports(job), job)


def _gke_tpu(environ: Mapping[str, str]) -> Launch | None:
    """Cloud TPU in Kubernetes, one slice or several."""
    workers = environ.get("TPU_PROCESS_ADDRESSES", environ.get("TPU_WORKER_HOSTNAMES"))
    if workers is None or "TPU_WORKER_ID" not in environ:
        return None
    hosts = [worker.partition(":")[0] for worker in workers.split(",")]
    slices, own = (
        _number(environ, variable) if environ.get(variable) else default
        for variable, default in (("MEGASCALE_NUM_SLICES", 1), ("MEGASCALE_SLICE_ID", 0))
    )
    first = (environ.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]).partition(":")[0]
    job = f"TPU {first}"
    index = _number(environ, "TPU_WORKER_ID") + own * len(hosts)
    return Launch("Cloud TPU", index, slices * len(hosts), (first,), _ports(job), job)


def _gce_tpu(_: Mapping[str, str]) -> Launch | None:
    """Cloud TPU's virtual machines, where a server of their own knows the others."""
    from jax._src import cloud_tpu_init, clusters

    cluster = clusters.GceTpuCluster
    if not cloud_tpu_init.running_in_cloud_tpu_vm or not cluster.is_env_present():
        return None
    return _of_jax("Cloud TPU", cluster)


def _kubernetes(environ: Mapping[str, str]) -> Launch | None:
    """An indexed Job of Kubernetes. How many pods there are its manifest says; else the API, by JAX."""
    if "KUBERNETES_SERVICE_HOST" not in environ or "JOB_COMPLETION_INDEX" not in environ:
        return None
    if ADDRESS in environ and COUNT in environ:
        return Launch("Kubernetes", _number(environ, "JOB_COMPLETION_INDEX"), _number(environ, COUNT), (), (), "")
    if importlib.util.find_spec("kubernetes") is None:
        return None
    from jax._src import clusters

    return _of_jax("Kubernetes", clusters.K8sCluster) if clusters.K8sCluster.is_env_present() else None


def _of_jax(name: str, cluster: Any) -> Launch:
    """Returns what one of JAX's own clusters says."""
    try:
        address = cluster.get_coordinator_address(timeout_secs=300, override_coordinator_port=None)
        index, count = cluster.get_process_id(), cluster.get_process_count()
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"--distributed: {name}: {' '.join(str(error).split())}") from error
    host = address.rpartition(":")[0].strip("[]")
    return Launch(name, index, count, (host,), _ports(f"{name} {host}"), f"{name} {host}")


def first_host(nodes: str) -> str:
    """Returns the first of the machines in Slurm's notation, such as `gpu[07-09,12],login`."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)
    assert first is not None
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0])


def _reserved(environ: Mapping[str, str]) -> tuple[int, ...]:
    """Returns the ports that Slurm reserved for the step, where it does (`MpiParams=ports=...`)."""
    variable, ports = "SLURM_STEP_RESV_PORTS", list[int]()
    for part in filter(None, environ.get(variable, "").split(",")):
        first, _, last = part.partition("-")
        ports += range(_port(variable, first), _port(variable, last or first) + 1)
    return tuple(ports[:_PORTS])


def _ports(job: str) -> tuple[int, ...]:
    digest = hashlib.sha256(job.encode()).digest()
    numbers = (int.from_bytes(digest[2 * place : 2 * place + 2]) for place in range(_PORTS))
    return tuple(dict.fromkeys(_FIRST_PORT + number % _PORT_RANGE for number in numbers))


def _port(variable: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**16):
        raise UserError(f"{variable} names port {text!r}: a port is a number from 1 to 65535")
    return int(text)


def _number(environ: Mapping[str, str], variable: str) -> int:
    text = environ[variable]
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{variable} is {text!r}: it must be a number, from 0 on")
    return int(text)
