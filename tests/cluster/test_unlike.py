"""Real processes that differ: both end before anything compiles, with a line that names the host and what differs."""

import json
import os
import re
import shutil

import pytest

from tests import processes
from transformer.cluster import fingerprints

SCENES = str(processes.ROOT / "tests" / "cluster" / "scenes.py")
HOST, FLAGS = os.uname().nodename, f"{os.environ.get('XLA_FLAGS', '')} "


def copy_of_the_package(folder, *, changed: bool):
    """Returns a PYTHONPATH in which the package comes from `folder`."""
    package = folder / "transformer"
    shutil.copytree(fingerprints._PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    if changed:
        with (package / "ops" / "attention.py").open("a") as file:
            file.write("\nDROPPED = 0.1\n")
    return f"{folder}{os.pathsep}{processes.ROOT}"


def refused(tmp_path, env, count=2):
    """Returns the line with which all processes end, whose variables `env` gives by process."""
    (tmp_path / "run").mkdir()
    ended = processes.run([SCENES, str(tmp_path / "run"), "alike"], count, env=env)
    assert [one.code for one in ended] == [2] * count, ended
    [line] = {line for one in ended for line in one.error_lines}
    assert "Traceback" not in ended[0].err + ended[-1].err
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"corpus"}
    return line.replace(f"on {HOST}", "on HOST")


def test_code_a_library_and_a_compiler_flag_of_one_process(tmp_path):
    path = copy_of_the_package(tmp_path / "copy", changed=True)
    other = tmp_path / "copy" / "numpy-9.9.9.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 9.9.9\n")
    line = refused(tmp_path, {1: {"PYTHONPATH": path, "XLA_FLAGS": FLAGS + "--xla_cpu_enable_fast_math=true"}})
    numpy = fingerprints.libraries().facts["numpy"]
    assert re.fullmatch(
        r"error: process 1 of 2 on HOST runs other code than process 0 on HOST: transformer is '\S+, hash (\w+)', not "
        r"'\S+, hash (?!\1)\w+', the first file that differs is transformer/ops/attention.py \((\w+), not (?!\2)\w+\); "
        r"it has other libraries than process 0 on HOST: numpy is 9\.9\.9, not " + re.escape(numpy) + "; "
        r"it has another environment than process 0 on HOST: --xla_cpu_enable_fast_math of XLA_FLAGS is true, not "
        r"absent; all processes of a job must have the same code and libraries and environment",
        line,
    ), line


@pytest.mark.exhaustive
def test_the_first_process_where_two_others_are_alike(tmp_path):
    line = refused(tmp_path, {0: {"PYTHONPATH": copy_of_the_package(tmp_path / "copy", changed=True)}}, count=3)
    assert line.startswith("error: process 0 of 3 on HOST runs other code than process 1 on HOST: ")


@pytest.mark.exhaustive
def test_devices_of_one_process(tmp_path):
    line = refused(tmp_path, {1: {"JAX_NUM_CPU_DEVICES": "3"}})
    assert line == (
        "error: process 1 of 2 on HOST has other devices than process 0 on HOST: number of devices is 3, not 1; all "
        "processes of a job must have the same devices"
    )


@pytest.mark.exhaustive
def test_a_setting_of_jax_of_one_process(tmp_path):
    line = refused(tmp_path, {1: {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}})
    assert "jax_default_matmul_precision is highest, not None; " in line


@pytest.mark.exhaustive
def test_a_program_and_then_the_same_code_elsewhere(tmp_path):
    """What may differ does: where the code lies and when it was written, and what XLA dumps where."""
    path = copy_of_the_package(tmp_path / "copy", changed=False)
    env = {
        1: {"PYTHONPATH": path, "XLA_FLAGS": f"--xla_dump_hlo_pass_re=none --xla_dump_to={tmp_path / 'dump'} {FLAGS}"}
    }
    both = processes.run([SCENES, str(tmp_path), "program", "alike"], 2, env=env, timeout=240)
    assert [one.code for one in both] == [0, 0], both
    scenes = [dict(json.loads(line) for line in one.out.splitlines() if line.startswith('["')) for one in both]
    assert scenes[0] == scenes[1]
    assert scenes[0]["alike"] == "step 6"
    assert re.match(
        r"process 1 of 2 on HOST would compile another program than process 0 on HOST: its StableHLO is '\d+ lines, "
        r"hash \w+', not '\d+ lines, hash \w+', the first line that differs is \d+ \('% = ",
        scenes[0]["program"],
    ), scenes[0]["program"]
