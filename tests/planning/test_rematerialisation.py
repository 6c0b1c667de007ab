"""What is computed again, chosen by planned memory: on chips that are there or not, alike in all processes."""

import dataclasses
import types

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

import configs
from tests.tiny_experiments import experiment_of
from tests.tiny_models import TINY
from transformer.layers.execution import Execution
from transformer.parallel.mesh import MESH_AXES, MeshConfig, make_mesh
from transformer.planning import rematerialisation
from transformer.planning.batch import abstract_batch
from transformer.planning.chips import memory_of, topology_of
from transformer.planning.division import Division
from transformer.planning.memory import memory
from transformer.planning.rematerialisation import MARGIN, POLICIES, chosen, on_topology
from transformer.training.program import Program

SHARE = 0.75  # of a GPU, which JAX takes


def llama(rows: int, **mesh: int):
    """LLaMA 3 8B on 64 devices, of which each has so many rows of 4,096 tokens."""
    experiment = configs.get("llama3-8b")
    train = dataclasses.replace(experiment.train, batch_size=64 * rows, seq_len=4096, accumulation=1)
    return dataclasses.replace(experiment, train=train, mesh=MeshConfig(**({"data": 1, "fsdp": 64} | mesh)))


def planned_peak(experiment, policy, devices=64):
    execution = dataclasses.replace(experiment.execution, remat=policy)
    return memory(Division(dataclasses.replace(experiment, execution=execution), devices), kernel=True).peak


@pytest.fixture(autouse=True)
def no_fraction(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)


def test_published_presets_leave_it_to_the_devices():
    assert {configs.get(name).execution.remat for name in ("gpt2-small", "llama3-70b", "whisper-tiny")} == {"auto"}


def test_the_first_policy_that_fits_is_taken():
    """More rows a device, and less is kept; what was passed over would not have fitted."""
    topology = topology_of("h100:64")
    room, seen = MARGIN * SHARE * topology.memory, []
    for rows in (1, 2, 3, 4, 8, 32, 64):
        experiment = llama(rows)
        policy = on_topology(experiment, topology).execution.remat
        seen.append(policy)
        fitting = [each for each in POLICIES if planned_peak(experiment, each) <= room]
        assert policy == (fitting[0] if fitting else "full")
    assert seen == sorted(seen, key=POLICIES.index)
    assert {*seen} == {*POLICIES}


def test_a_larger_share_of_the_memory_keeps_more(monkeypatch):
    topology = topology_of("h100:64")
    peaks = {rows: planned_peak(llama(rows), "none") for rows in range(1, 9)}
    rows = max(rows for rows, peak in peaks.items() if peak <= MARGIN * 0.99 * topology.memory)
    assert peaks[rows] > MARGIN * SHARE * topology.memory
    assert on_topology(llama(rows), topology).execution.remat != "none"
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.99")
    assert on_topology(llama(rows), topology).execution.remat == "none"


def test_a_choice_by_name_is_kept():
    experiment = dataclasses.replace(llama(1), execution=Execution(remat="dots"))
    assert on_topology(experiment, topology_of("h100:64")) is experiment
    assert chosen(experiment, make_mesh(MeshConfig(data=1))).policy == "dots"


def devices(kind="NVIDIA H100 80GB HBM3", platform="gpu", stats=None):
    """A mesh of 64 devices: with `stats`, they are there."""
    client = type("CompileOnlyPyClient" if stats is None else "Client", (), {})()
    device = types.SimpleNamespace(device_kind=kind, platform=platform, client=client, memory_stats=lambda: stats)
    shape = dict.fromkeys(MESH_AXES, 1) | {"fsdp": 64}
    flat = np.array([device] * 64, object)
    return types.SimpleNamespace(
        devices=flat.reshape(list(shape.values())), shape=shape, axis_names=MESH_AXES, size=64, local_devices=[device]
    )


def test_devices_that_are_there_say_how_much_jax_has_of_them():
    """So an A100 of 40 GB is not taken for one of 80, and a chip of no table is planned for."""
    experiment = llama(2)
    for kind in ("NVIDIA A100-SXM4-40GB", "NVIDIA Something New"):
        for policy in POLICIES:
            room = planned_peak(experiment, policy) / MARGIN
            choice = chosen(experiment, devices(kind, stats={"bytes_limit": room * 1.001}))
            assert choice.policy == policy
            assert f"of {room * 1.001 / 2**30:.1f}" in choice.reason


def test_described_devices_are_as_large_as_their_chip():
    topology = topology_of("h100:64")
    assert memory_of("NVIDIA H100 80GB HBM3") == topology.memory
    assert memory_of("TPU v5p") == topology_of("v5p:8").memory
    assert memory_of("NVIDIA L4") is memory_of("cpu") is memory_of("Something") is None
    for rows in (1, 8, 64):
        experiment = llama(rows)
        assert chosen(experiment, devices()).policy == on_topology(experiment, topology).execution.remat


def test_processes_agree_on_the_least_memory(monkeypatch):
    experiment = llama(2)
    enough = planned_peak(experiment, "none") / MARGIN
    monkeypatch.setattr(rematerialisation, "exchange", lambda what, value: [value, enough / 2])
    assert chosen(experiment, devices(stats={"bytes_limit": enough})).policy != "none"


@pytest.mark.parametrize(
    ("mesh", "policy", "words"),
    [
        (devices("Something", stats={}), "full", "is not known"),
        (AbstractMesh((1,) * len(MESH_AXES), MESH_AXES), "full", "devices are not known"),
        (devices("cpu", "cpu", stats={"bytes_limit": 1}), "none", "not planned on CPUs"),
    ],
)
def test_where_nothing_is_known(mesh, policy, words):
    choice = chosen(llama(1), mesh)
    assert choice.policy == policy
    assert words in choice.reason


def test_a_program_computes_what_was_chosen(monkeypatch):
    """On a CPU nothing is computed again; where the plan says so, everything is."""
    mesh = make_mesh(MeshConfig(data=1))

    def products(remat):
        experiment = experiment_of(TINY["gpt"], execution=Execution(remat=remat))
        with jax.set_mesh(mesh):
            program = Program(experiment, mesh)
            batch = abstract_batch(experiment, mesh)
            return program.remat.policy, str(program.trace(batch).jaxpr).count("dot_general")

    nothing, everything = products("none")[1], products("full")[1]
    assert everything > nothing
    assert products("auto") == ("none", nothing)
    choice = rematerialisation.Choice("full", "so this test says")
    monkeypatch.setattr("transformer.training.program.chosen", lambda *_: choice)
    assert products("auto") == ("full", everything)
