"""Devices of a machine, by folders of pretended device files: each process takes its part, and none lies idle."""

import dataclasses
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import processes
from transformer.cluster import devices
from transformer.errors import UserError

HOST = socket.gethostname()


@pytest.fixture
def machine(tmp_path):
    """Makes a machine with some GPUs."""

    def made(gpus, kind="nvidia"):
        (tmp_path / "dev").mkdir()
        for name in [*(f"{kind}{number}" for number in range(gpus)), "null", "nvidiactl", "nvidia-uvm", "nvidia-caps"]:
            (tmp_path / "dev" / name).touch()
        return tmp_path

    return made


def own(environs, root, hosts=None):
    """Returns the device numbers by which each process's JAX knows its own, all of them used."""
    views = [devices.look(environ, root) for environ in environs]
    views = [
        dataclasses.replace(view, host=host) for view, host in zip(views, hosts or [HOST] * len(views), strict=True)
    ]
    parts = devices.divide(views)
    devices.refuse_unused(views, parts)
    return [devices.local_ids(view, part) for view, part in zip(views, parts, strict=True)]


def test_processes_that_see_the_same_share_it(machine):
    root = machine(8)
    assert own([{}], root) == [[*range(8)]]
    assert own([{}] * 2, root) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert own([{}] * 8, root) == [[number] for number in range(8)]
    assert own([{}] * 4, root, ["a", "b", "a", "b"]) == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7]]
    # Slurm's --gpus-per-node without a bound task.
    slurm = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7", "SLURM_GPUS_ON_NODE": "8"}
    assert own([slurm] * 2, root) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_processes_that_were_given_their_own_take_it(machine):
    root = machine(4)
    assert own([{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "3,2"}], root) == [[0, 1], [0, 1]]
    uuids = [{"CUDA_VISIBLE_DEVICES": f"GPU-{number}"} for number in range(4)]
    assert own(uuids, root) == [[0]] * 4
    by_hand = [{"JAX_LOCAL_DEVICE_IDS": "0,1"}, {"JAX_LOCAL_DEVICE_IDS": "2,3"}]
    assert own(by_hand, root) == [[0, 1], [2, 3]]


def test_processes_whose_devices_are_closed_to_each_other_take_what_is_open(machine, monkeypatch):
    """Slurm with cgroups: all files are there, a task's open ones are numbered from 0."""
    root = machine(4)
    views = []
    for open_ones in ({"0", "1"}, {"2", "3"}):
        monkeypatch.setattr(devices, "_allowed", lambda _, number, open_ones=open_ones: number in open_ones)
        views.append(devices.look({"CUDA_VISIBLE_DEVICES": "0,1"}, root))
    parts = devices.divide(views)
    devices.refuse_unused(views, parts)
    assert parts == [["0", "1"], ["2", "3"]]
    assert [devices.local_ids(*each) for each in zip(views, parts, strict=True)] == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("environs", "words"),
    [
        (
            [{"CUDA_VISIBLE_DEVICES": "0"}],
            "has 8 GPUs and this job uses 1 of them, as CUDA_VISIBLE_DEVICES=0 says: ask",
        ),
        (
            [{"SLURM_GPUS_ON_NODE": "12"}],
            "has 12 GPUs and this job uses 8 of them: ask for all (Slurm: --gpus-per-node)",
        ),
        ([{"CUDA_VISIBLE_DEVICES": str(number)} for number in range(7)], "has 8 GPUs and this job uses 7 of them"),
        ([{"JAX_LOCAL_DEVICE_IDS": "0,1"}], "has 8 GPUs and this job uses 2 of them"),
        ([{}] * 3, f"3 processes on {HOST} for 8 GPUs: start a number of processes on it that divides them"),
        ([{}] * 16, f"16 processes on {HOST} for 8 GPUs: start a number"),
        ([{"CUDA_VISIBLE_DEVICES": "NoDevFiles"}], f"1 process on {HOST} for no GPUs: ask for some"),
        ([{"CUDA_VISIBLE_DEVICES": ""}], "or set JAX_PLATFORMS=cpu if the CPU is meant"),
        ([{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "1,2"}], "processes 0 and 1 on"),
        ([{"JAX_LOCAL_DEVICE_IDS": "0,8"}], "JAX_LOCAL_DEVICE_IDS names device 8 on"),
        ([{"JAX_LOCAL_DEVICE_IDS": "all"}], "JAX_LOCAL_DEVICE_IDS is 'all': it must be numbers with commas"),
    ],
)
def test_what_would_lie_idle_or_be_used_twice_is_refused(environs, words, machine):
    root = machine(8)
    with pytest.raises(UserError) as error:
        own(environs, root)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_every_machine_that_leaves_some_is_named(machine):
    root = machine(2)
    with pytest.raises(UserError) as error:
        own([{"CUDA_VISIBLE_DEVICES": "0"}] * 4 + [{}], root, ["a", "b", "c", "d", "e"])
    assert str(error.value).startswith(
        "a has 2 GPUs and this job uses 1 of them, as CUDA_VISIBLE_DEVICES=0 says; b has"
    )
    assert "; and so on, 4 machines in all: ask for all" in str(error.value)


def test_without_accelerators_there_is_nothing_to_divide(machine):
    root = machine(8)
    assert own([{"JAX_PLATFORMS": "cpu"}] * 3, root) == [[], [], []]
    assert own([{}] * 3, root / "nowhere") == [[], [], []]


def test_gpus_whose_files_nothing_has_made_yet_count(tmp_path):
    for address in ("0000:1b:00.0", "0000:43:00.0"):
        (tmp_path / "proc" / "driver" / "nvidia" / "gpus" / address).mkdir(parents=True)
    assert own([{}, {}], tmp_path) == [[0], [1]]
    with pytest.raises(UserError, match="has 2 GPUs and this job uses 1 of them"):
        own([{"CUDA_VISIBLE_DEVICES": "1"}], tmp_path)


def test_parts_of_gpus_count_by_themselves(machine):
    assert own([{"CUDA_VISIBLE_DEVICES": "MIG-a"}, {"CUDA_VISIBLE_DEVICES": "MIG-b"}], machine(1)) == [[0], [0]]


def test_chips_of_a_tpu(machine, monkeypatch):
    root = machine(4, "accel")
    assert own([{"TPU_VISIBLE_CHIPS": "0"}], root) == [[]]  # without libtpu these are other devices
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda _: True)
    assert own([{}], root) == [[0, 1, 2, 3]]
    with pytest.raises(UserError, match="has 4 TPUs and this job uses 1 of them, as TPU_VISIBLE_CHIPS=0 says"):
        own([{"TPU_VISIBLE_CHIPS": "0"}], root)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 4), st.permutations(range(24)))
def test_a_division_uses_every_device_once(each, count, hosts, order):
    """Whatever the order of the processes over the machines."""
    names = [f"host{place % hosts}" for place in order if place < count * hosts]
    visible = [str(number) for number in range(each * count)]
    views = [devices.View(name, "", "GPU", visible, len(visible), None, "") for name in names]
    parts = devices.divide(views)
    devices.refuse_unused(views, parts)
    for host in set(names):
        taken = [name for view, part in zip(views, parts, strict=True) if view.host == host for name in part]
        assert sorted(taken) == sorted(visible)
    assert {len(part) for part in parts} == {each}


REFUSED = """
    from pathlib import Path
    from transformer.cluster.joining import join
    join(root=Path({root!r}))
    print("not reached")
"""


def test_a_job_that_uses_one_of_eight_is_refused_by_the_hosts_name(machine):
    root = str(machine(8))
    environ = {0: {"CUDA_VISIBLE_DEVICES": "3", "JAX_PLATFORMS": ""}}
    program = processes.PREAMBLE.replace("command.start_jax(distributed={distributed})", "pass")
    [one] = processes.run(["-c", program.format(body=REFUSED.format(root=root))], 1, env=environ)
    assert (one.code, one.out) == (2, ""), one.err
    assert one.error_lines == [
        f"error: {HOST} has 8 GPUs and this job uses 1 of them, as CUDA_VISIBLE_DEVICES=3 says: ask for all (Slurm: "
        "--gpus-per-node), or say --shared-hosts if the others are not this job's"
    ]


@pytest.mark.exhaustive
def test_two_processes_are_refused_alike_when_they_are_joined(machine):
    root = str(machine(8))
    environ = {index: {"CUDA_VISIBLE_DEVICES": str(index), "JAX_PLATFORMS": ""} for index in range(2)}
    program = processes.PREAMBLE.replace("command.start_jax(distributed={distributed})", "pass")
    for one in processes.run(["-c", program.format(body=REFUSED.format(root=root))], 2, env=environ):
        assert (one.code, one.out) == (2, ""), one.err
        assert [f"{HOST} has 8 GPUs and this job uses 2 of them" in line for line in one.error_lines] == [True]
