"""Joining: one of several processes finds the others, takes its devices, and says who found it."""

import contextlib
import dataclasses
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from transformer.cluster import devices, launchers, watchdog
from transformer.cluster.agreement import exchange, own_index, together
from transformer.cluster.config import Deadlines
from transformer.cluster.deadlines import NO_DEADLINE, within_start
from transformer.cluster.devices import View
from transformer.cluster.launchers import Launch
from transformer.cluster.leaving import follow
from transformer.cluster.rendezvous import meet
from transformer.errors import Late, UserError

_NO_PROXY = "no_grpc_proxy"
"""A variable of gRPC's, which it reads before `no_proxy`."""
_MARGIN = 60
"""Seconds past the deadline at which JAX would abort a process that still waits for the others, with a C++ trace."""
_ANSWER = 5
"""Seconds past the deadline that the leading process's service gets to answer."""
_needs_all = False
"""Whether this process has joined a job that must use every device."""


def join(
    environ: Mapping[str, str] = os.environ,
    *,
    shared_hosts: bool = False,
    deadlines: Deadlines | None = None,
    root: Path = Path("/"),
) -> None:
    """Joins this process to the others of its job, and starts JAX's backend on its devices. Before JAX's first use.

    The leading process says in one line what launched the job and how large it is. From here on, the failure of one
    process ends all (`leaving`).

    Args:
      environ: this process's variables.
      shared_hosts: whether devices that this job leaves unused are not its own to use.
      deadlines: of the command: its start is how long to wait for the last process. None: the default ones.
      root: where the machine's `dev` is.

    Raises:
      UserError: there is no launcher, its variables are wrong, processes did not come, or devices would lie idle.
    """
    global _needs_all
    limits = Deadlines() if deadlines is None else deadlines
    deadline = (limits.start if limits.enabled else None) or NO_DEADLINE
    launch = launchers.find(environ)
    view = devices.look(environ, root)
    if launch.count > 1:
        address = meet(launch, deadline=deadline)
        _bypass_proxies(address)
        jax.config.update("jax_enable_preemption_service", True)  # agrees on the step to stop after
        with _ended_past(
            deadline,
            f"{launch.name}: all {launch.count} processes met, but not all joined JAX's service at "
            f"{address} {within_start(deadline)}: one has ended since, or cannot reach it; {_this(launch)}",
        ):
            jax.distributed.initialize(
                address,
                launch.count,
                launch.index,
                cluster_detection_method="deactivate",
                initialization_timeout=int(deadline + _MARGIN),
            )
        follow()
    own_record = {"devices": dataclasses.asdict(view), "standing": watchdog.own_standing().to_json()}
    with _answered(launch, deadline):
        records = exchange("the processes", own_record, deadline=deadline)
    watchdog.all_joined([record["standing"] for record in records])
    views = [devices.from_json(record["devices"]) for record in records]
    own = devices.divide(views)
    if not shared_hosts:
        devices.refuse_unused(views, own)
    if view.kind == "GPU":
        numbers = ",".join(map(str, devices.local_ids(view, own[launch.index])))
        jax.config.update("jax_cuda_visible_devices", numbers)
    with _answered(launch, deadline), together("starting the devices", deadline=deadline):
        _check_started(view, len(own[launch.index]))
    _needs_all = not shared_hosts
    if own_index() == 0:
        print(f"distributed: {_summary(launch.name, views)}", file=sys.stderr, flush=True)


def require_all(used: int) -> None:
    """Refuses a mesh of fewer devices than the job has, where this process joined one.

    Raises:
      UserError: see above; it names this host.
    """
    if _needs_all and used < jax.device_count():
        raise UserError(
            f"{socket.gethostname()}: this job has {jax.device_count()} devices and its mesh uses {used} of them: "
            "raise --mesh.* until it uses all, or say --shared-hosts if the others are not this job's"
        )


@contextlib.contextmanager
def _ended_past(seconds: float, line: str) -> Iterator[None]:
    """A context in which this process waits for JAX's service; after so many seconds it ends with a line.

    The others are not told: the service is what tells them.
    """

    def end() -> None:
        print(f"error: {line}", file=sys.stderr, flush=True)
        os._exit(Late.exit_code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _answered(launch: Launch, deadline: float) -> contextlib.AbstractContextManager[None]:
    """A context of questions to JAX's service, which may be stopped; who is late in answering is named by them, before.

    A question that is answered from the service alone has no deadline of its own, and no watchdog looks on yet.
    """
    if launch.count == 1:
        return contextlib.nullcontext()
    line = (
        f"{launch.name}: the leading process does not answer {within_start(deadline)}: it was stopped, or the machine "
        f"or its network hangs; {_this(launch)}"
    )
    return _ended_past(deadline + _ANSWER, line)


def _this(launch: Launch) -> str:
    """Returns which process this is, in words."""
    return f"this is process {launch.index} on {socket.gethostname()}"


def _bypass_proxies(address: str) -> None:
    """Makes gRPC connect to the leading process itself: through an HTTP proxy, JAX's service is never reached."""
    kept = os.environ.get(_NO_PROXY, os.environ.get(_NO_PROXY.replace("grpc_", "")))
    hosts = [*filter(None, [kept]), address.rpartition(":")[0].strip("[]"), "localhost"]
    os.environ[_NO_PROXY] = ",".join(hosts)
    jax.config.update("jax_check_proxy_envs", False)  # a warning of what is mended here


def _check_started(view: View, expected: int) -> None:
    """Starts JAX's backend; refuses one that is not on the devices of this process."""
    try:
        started = jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # the latter, where JAX_PLATFORMS names what is not installed
        reason = next(iter(str(error).strip().splitlines()), "is what JAX_PLATFORMS names installed?")
        raise UserError(f"JAX cannot start on the devices of {view.host}: {reason}") from error
    if view.kind == "CPU":
        return
    if started[0].platform == "cpu":
        raise UserError(
            f"{view.host} has {view.total} {view.kind}s and JAX runs on its CPU: install the extra "
            f"`{'cuda' if view.kind == 'GPU' else 'tpu'}`, or set JAX_PLATFORMS=cpu if the CPU is meant"
        )
    if view.kind == "GPU" and len(started) != expected:
        raise UserError(f"JAX sees {len(started)} of the {expected} GPUs that this process was given on {view.host}")


def _summary(launcher: str, views: list[View]) -> str:
    machines = devices.machines(views)
    counts = ((len(views), "process", "es"), (machines, "host", "s"), (jax.device_count(), "device", "s"))
    processes, hosts, all_devices = (f"{number} {word}{plural * (number != 1)}" for number, word, plural in counts)
    return f"{launcher}, {processes} on {hosts}, {all_devices}"
