"""A real Slurm of several nodes on this machine's loopback, for tests: `with slurm.cluster(folder) as cluster: ...`.

Its daemons and jobs live in a mount and a process namespace of their own, with an `/etc/hosts` that knows the nodes:
nothing of the machine's is changed, and the kernel ends all of them with the namespace, however the test ends.
"""

import contextlib
import dataclasses
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from tests.processes import free_port

PROGRAMS = ("slurmctld", "slurmd", "srun", "sbatch", "scontrol", "munged", "unshare")
INSTALL = "make cluster-test-packages installs them"

_CONF = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
SlurmdParameters=config_overrides
MinJobAge=3600
ReturnToService=2
MpiDefault=none
KillWait=60
{nodes}
PartitionName=p Nodes={names} Default=YES State=UP OverSubscribe=YES
"""
# cred_expire is also how long a requeued job rests before it may start again: two minutes by default.

_OWN = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_NAMESPACE = """\
set -e
cd {folder}
mount --bind hosts /etc/hosts
munged --force --key-file=munge.key --socket={folder}/munge.socket --pid-file=munged.pid --log-file=munged.log \
    --seed-file=munged.seed
slurmctld
for node in {names}; do slurmd -N $node; done
echo up
cat >/dev/null  # until the test closes this standard input, or is gone
"""


def why_not() -> str | None:
    """Returns why no cluster can be started here, for a skipped test; None where one can."""
    if os.geteuid() != 0:
        return "Slurm's daemons in namespaces of their own need root"
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"there is no {', '.join(missing)} here: {INSTALL}"
    return None


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster that is up."""

    folder: Path
    """Folder of its configuration, its state and its daemons' logs."""
    nodes: Sequence[str]

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which Slurm's commands find this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def do(self, *args: str, **variables: str) -> str:
        """Returns what one of Slurm's commands prints, given more variables."""
        done = subprocess.run(args, env=self.environment | variables, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(args)}: {done.stderr}"
        return done.stdout

    def submit(self, script: Path, *args: str, options: Sequence[str] = (), **variables: str) -> int:
        """Returns the number of the job that `sbatch OPTIONS script ARGS` makes, with more variables."""
        printed = self.do("sbatch", "--parsable", *options, str(script), *args, **variables)
        return int(printed.split(";")[0])

    def job(self, number: int) -> Mapping[str, str]:
        """Returns what Slurm knows of a job: JobState, Restarts, NumNodes, ExitCode, ..."""
        return dict(re.findall(r"(\w+)=(\S+)", self.do("scontrol", "show", "job", str(number))))

    def wait(self, number: int, states: Collection[str], *, timeout: float = 120) -> Mapping[str, str]:
        """Waits until a job is in one of some states; returns what Slurm knows of it then."""
        ends = time.monotonic() + timeout
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < ends, f"still {job['JobState']}, not {states}: {job}\n{self.logs()}"
            time.sleep(0.5)
        return job

    def logs(self) -> str:
        """Returns the ends of the daemons' logs, for the message of a test that failed."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def cluster(folder: Path, *, nodes: Sequence[str] = ("n1", "n2"), cpus: int = 2) -> Iterator[Cluster]:
    """Starts a cluster whose files lie in `folder`, which must be there, and ends all of it with the block."""
    host = socket.gethostname().partition(".")[0]
    lines = [f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs={cpus}" for node in nodes]
    conf = _CONF.format(host=host, port=free_port(), folder=folder, nodes="\n".join(lines), names=",".join(nodes))
    (folder / "slurm.conf").write_text(conf)
    (folder / "hosts").write_text(f"{Path('/etc/hosts').read_text()}\n127.0.0.1 {' '.join(nodes)}\n")
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    (folder / "state").mkdir()
    made = Cluster(folder, nodes)
    with open(folder / "namespace.log", "w") as log:
        namespace = subprocess.Popen(
            [*_OWN, "bash", "-c", _NAMESPACE.format(folder=folder, names=" ".join(nodes))],
            env=made.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert namespace.stdout is not None
        assert namespace.stdout.readline() == "up\n", made.logs()
        ends = time.monotonic() + 60
        while made.do("sinfo", "--noheader", "--Node", "--format=%T").split() != ["idle"] * len(nodes):
            assert time.monotonic() < ends, f"{made.do('sinfo')}\n{made.logs()}"
            time.sleep(0.2)
        yield made
    finally:
        namespace.communicate()  # which closes its standard input
