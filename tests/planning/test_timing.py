"""The time of a step: rooflines and rings by hand, laws, and published speeds of other systems."""

import dataclasses

import hypothesis.strategies as st
import pytest
from hypothesis import given

import configs
from transformer.chips import CHIPS
from transformer.parallel.collectives import Collective
from transformer.parallel.hlo import Array
from transformer.parallel.mesh import MESH_AXES, MeshConfig
from transformer.planning import timing
from transformer.planning.chips import topology_of
from transformer.planning.prediction import predict
from transformer.planning.timing import Rates, members, seconds_of, step_time

RATES = Rates(products=100.0, attention=50.0, memory=10.0, link=8.0, network=1.0, per_host=4, hop=0.0, network_hop=0.0)


def sizes(**axes):
    return {axis: axes.get(axis, 1) for axis in MESH_AXES}


def sent(kind, axes, group, numbers, times=1):
    return Collective(kind, axes, False, group, times, True, (Array("f32", (numbers,)),), "", "")


def test_parts_are_rooflines():
    found = step_time(1000.0, 200.0, 30.0, [], sizes(), RATES, layers=2)
    assert (found.products, found.attention, found.memory) == (8.0, 4.0, 3.0)
    assert found.total == found.apart == 15.0


def test_a_ring_within_a_host_and_between_hosts():
    gather = sent("all-gather", ("fsdp",), 4, 8)  # 32 bytes, of which three quarters are sent
    assert seconds_of(gather, sizes(fsdp=4), RATES) == 24 / 8
    # Eight devices of two hosts: four members a host, so four adapters, which are slower than the links.
    wide = sent("all-gather", ("fsdp",), 8, 8)
    assert seconds_of(wide, sizes(fsdp=8), RATES) == 28 / 4
    # Copies across hosts: one member a host, and one adapter.
    copies = sent("all-reduce", ("data",), 2, 8)
    assert seconds_of(copies, sizes(data=2, fsdp=4), RATES) == 32 / 1
    assert seconds_of(sent("all-reduce", (), 1, 8), sizes(), RATES) == 0


def test_hops_take_time_whatever_is_sent():
    rates = dataclasses.replace(RATES, hop=1.0, network_hop=10.0)
    gather = sent("all-gather", ("fsdp",), 8, 0)
    assert seconds_of(gather, sizes(fsdp=8), rates) == 6 * 1.0 + 2 * 10.0
    assert seconds_of(sent("all-reduce", ("fsdp",), 8, 0), sizes(fsdp=8), rates) == 52.0


@pytest.mark.parametrize(
    ("axes", "per_host", "count"),
    [
        (("tensor",), 8, 2), (("fsdp",), 8, 4), (("data",), 8, 1), (("fsdp", "tensor"), 8, 8), (("data", "fsdp"), 8, 4),
        (("data",), None, 4), (("fsdp",), 2, 1),
    ],
)  # fmt: skip
def test_members_of_a_group_in_a_host(axes, per_host, count):
    assert members(tuple(sizes(data=4, fsdp=4, tensor=2).items()), axes, per_host) == count


def test_parameters_hide_and_activations_do_not():
    gather, reduce = sent("all-gather", ("fsdp",), 4, 32, times=3), sent("all-reduce", ("tensor",), 4, 32)
    found = step_time(
        1000.0, 0.0, 0.0, [gather, reduce], sizes(fsdp=4, tensor=4), dataclasses.replace(RATES, per_host=None), 3
    )
    assert found.hidden == pytest.approx(2 * 12.0)
    assert found.exposed == pytest.approx(12.0 + 24.0)
    assert found.total == pytest.approx(24.0 + 36.0)  # what hides takes longer than what it hides behind
    assert found.apart == pytest.approx(10.0 + 60.0)


@given(st.floats(1.0, 1e4), st.integers(1, 100), st.integers(1, 8))
def test_time_grows_with_work_and_falls_with_rates(flops, numbers, times):
    def total(flops, rates=RATES):
        collective = sent("reduce-scatter", ("fsdp",), 4, numbers, times)
        return step_time(flops, 0.0, 1.0, [collective], sizes(fsdp=4), rates, layers=4)

    found = total(flops)
    assert found.total <= found.apart
    assert total(2 * flops).total >= found.total
    faster = dataclasses.replace(RATES, products=200.0, link=16.0)
    assert total(flops, faster).total <= found.total


@pytest.mark.parametrize(
    ("preset", "chips", "mesh", "remat", "rows", "length", "measured"),
    [
        ("llama3-8b", "a100:64", {"fsdp": 64}, "projections", 1, 8192, 2973),
        ("llama3-70b", "a100:64", {"fsdp": 64}, "full", 1, 8192, 331),
        ("llama3-8b", "h100:8", {"fsdp": 8}, "projections", 2, 8192, 6667),
        ("llama3-8b", "h100:128", {"fsdp": 128}, "projections", 2, 8192, 6514),
    ],
)
def test_published_speeds_of_another_system(preset, chips, mesh, remat, rows, length, measured):
    """torchtitan, docs/performance.md and benchmarks/llama3_h100_202412_torchtitan.md: tokens a second and GPU.

    Its H100s were held to 500 of their 700 W and have slower memory; its selective checkpointing keeps about what
    `projections` keeps.
    """
    experiment, topology = configs.get(preset), topology_of(chips)
    experiment = dataclasses.replace(
        experiment,
        mesh=MeshConfig(data=1, **mesh),
        execution=dataclasses.replace(experiment.execution, remat=remat),
        train=dataclasses.replace(experiment.train, batch_size=rows * topology.devices, seq_len=length),
    )
    rates = timing.rates_of(topology.chip, "bfloat16", topology.per_host)
    found = predict(experiment, topology, rates)
    assert found.tokens_per_second / topology.devices == pytest.approx(measured, rel=0.27)


def test_every_chip_that_is_planned_for_has_its_rates():
    for name in ("a100", "b200", "h100", "h200", "v5e", "v5p", "v6e"):
        rates = timing.rates_of(name, "bfloat16", 8)
        assert rates.products < CHIPS[name].bf16
        assert rates.network < rates.link < rates.memory
    assert timing.rates_of("h100", "float32", 8).products == timing.rates_of("h100", "bfloat16", 8).products / 2
    with pytest.raises(ValueError, match="not all of its rates"):
        timing.rates_of("l4", "bfloat16", 8)
