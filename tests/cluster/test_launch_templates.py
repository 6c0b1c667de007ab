"""Templates of tools/launch: what they start is found, by the API's schemas and by the environments that they make."""

import itertools
import os
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from transformer.cluster import launchers

TEMPLATES = Path(__file__).parents[2] / "tools" / "launch"


def job():
    """Returns the manifest's one replicated job, as a Job of the core API."""
    manifest = yaml.safe_load((TEMPLATES / "kubernetes.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [replicated] = manifest["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    name = f"{manifest['metadata']['name']}-{replicated['name']}-0"
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, **replicated["template"]}


@pytest.mark.parametrize("version", ["1.30.0", kubernetes_validate.latest_version()])
def test_the_jobs_pods_are_valid(version):
    kubernetes_validate.validate(job(), version, strict=True)
    pod = job()["spec"]["template"]
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **pod}, version, strict=True)


def test_the_schema_knows_a_wrong_manifest():
    wrong = job()
    wrong["spec"]["completionsMode"] = wrong["spec"].pop("completionMode")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_every_pod_finds_the_first():
    spec = job()["spec"]
    [container] = spec["template"]["spec"]["containers"]
    assert "--distributed" in container["command"]
    for index in range(spec["completions"]):
        pod = {
            "HOSTNAME": f"{job()['metadata']['name']}-{index}",
            "JOB_COMPLETION_INDEX": str(index),
            "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            **{variable["name"]: variable["value"] for variable in container["env"]},
        }
        launch = launchers.find(pod)
        assert (launch.name, launch.index, launch.count) == ("Kubernetes", index, spec["parallelism"])
        if index == 0:
            assert launch.hosts == (f"{pod['HOSTNAME']}.train",)


def test_by_hand_every_process_is_told_its_number(tmp_path):
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/bash\nexec bash -c "$2"\n')
    ssh.chmod(0o755)
    program = 'printf "%s\\n" "$JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID $0"; exit $JAX_PROCESS_ID'
    command = ["bash", str(TEMPLATES / "by-hand.sh"), "a,b", "bash", "-c", program, "two words"]
    environ = {"PATH": os.environ["PATH"], "SSH": str(ssh), "PORT": "7777"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done
    assert sorted(done.stdout.splitlines()) == ["a:7777 2 0 two words", "a:7777 2 1 two words"]


def test_mpirun_gets_one_process_a_host_and_what_is_set(tmp_path):
    mpirun = tmp_path / "mpirun"
    mpirun.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    mpirun.chmod(0o755)
    environ = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NCCL_SOCKET_IFNAME": "eth0", "XLA_FLAGS": ""}
    command = ["bash", str(TEMPLATES / "openmpi.sh"), "a,b", "python", "train.py"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[:6] == ["--map-by", "ppr:1:node", "--host", "a:1,b:1", "--bind-to", "none"]
    assert words[-2:] == ["python", "train.py"]
    passed_on = {after for word, after in itertools.pairwise(words) if word == "-x"}
    assert passed_on == {"PATH", "XLA_PYTHON_CLIENT_MEM_FRACTION", "NCCL_DEBUG", "NCCL_SOCKET_IFNAME"}


@pytest.mark.parametrize("words", [["by-hand.sh", "a,b"], ["openmpi.sh"], ["tpu.sh", "slice"], ["slurm.sbatch"]])
def test_a_template_without_a_command_says_how_it_is_used(words):
    command = ["bash", str(TEMPLATES / words[0]), *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done
    assert done.stderr.startswith("usage: ")
    assert done.stderr.endswith(" COMMAND\n")


def test_the_templates_are_sound_shell():
    for path in TEMPLATES.iterdir():
        if path.suffix in (".sh", ".sbatch"):
            subprocess.run(["bash", "-n", str(path)], check=True)
