"""A real Slurm of two nodes: a job trains, is preempted, comes back on one node fewer, and loses nothing."""

import signal
import subprocess

import pytest

from tests import processes
from tests.cluster import slurm, tiny

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(slurm.why_not() is not None, reason=str(slurm.why_not())),
]

TEMPLATE = processes.ROOT / "tools" / "launch" / "slurm.sbatch"


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "slurm").mkdir()
    with slurm.cluster(tmp_path / "slurm") as cluster:
        yield cluster


def test_a_job_comes_back_by_itself_and_then_with_one_node_fewer(cluster, folder, whole):
    run, log = folder / "requeued", cluster.folder / "job.log"
    args = tiny.command(folder, "requeued", "--distributed")
    job = cluster.submit(TEMPLATE, *args, options=["--nodes=2", f"--output={log}"], **tiny.environment())
    assert cluster.wait(job, {"RUNNING"})["NumNodes"] == "2"
    tiny.until_step(run, 8)
    cluster.do("scancel", "--signal=TERM", str(job))  # as Slurm does two minutes before the time is up
    cluster.wait(job, {"PENDING"})
    before = max(tiny.losses(run))

    cluster.wait(job, {"RUNNING"})
    tiny.until_step(run, before + 4)
    cluster.do("scontrol", "update", "nodename=n2", "state=drain", "reason=broken")
    cluster.do("scontrol", "requeue", str(job))  # as a preemption does
    cluster.wait(job, {"PENDING"})
    cluster.do("scontrol", "update", f"JobId={job}", "NumNodes=1-1", "NumTasks=1")
    ended = cluster.wait(job, {"COMPLETED", "FAILED", "TIMEOUT"}, timeout=240)
    said = log.read_text()
    assert (ended["JobState"], ended["NumNodes"], ended["Restarts"]) == ("COMPLETED", "1", "2"), said
    starts = [line for line in said.splitlines() if line.startswith("distributed: Slurm, ")]
    assert [line.split()[2] for line in starts] == ["2", "2", "1"], said  # processes
    assert said.count(": stopped after step ") >= 2
    assert tiny.losses(run) == pytest.approx(whole, rel=tiny.TOLERANCE)


def test_ctrl_c_at_srun_saves_and_leaves(cluster, folder, whole):
    """Its option -X passes on the first one. A SIGTERM to srun itself makes Slurm kill the step."""
    run = folder / "ctrl-c"
    args = tiny.command(folder, "ctrl-c", "--distributed")
    environment = cluster.environment | tiny.environment()
    step = ["srun", "-X", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1", *args]
    with subprocess.Popen(step, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as srun:
        try:
            tiny.until_step(run, 8)
            srun.send_signal(signal.SIGINT)
            said, _ = srun.communicate(timeout=120)
        finally:
            srun.kill()
    assert srun.returncode == tiny.SAVED_AND_LEFT, said
    assert "stopped after step " in said
    tiny.check_saved(run, whole, at_least=8)
