"""Plans: what is said of a run, of a search, and of what is measured on this processor."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import configs
from tests.exhaustive import few
from tools import plan
from transformer import command
from transformer.checkpoint.interval import expected_goodput, young_daly
from transformer.models.gpt import GPTConfig
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.planning import absent, report
from transformer.planning.chips import topology_of
from transformer.planning.outlook import outlook
from transformer.planning.prediction import predict
from transformer.planning.products import compiled_flops, products
from transformer.planning.rates import rates_for
from transformer.planning.search import candidates, lies_on, search
from transformer.planning.step import build, described
from transformer.training.experiment import Experiment, TrainConfig

ROOT = Path(__file__).parent.parent.parent
MODEL = GPTConfig(vocab_size=64, context_length=32, width=64, num_layers=4, num_heads=8, dropout=0.0)
TINY = Experiment("tiny", MODEL, train=TrainConfig(batch_size=64, seq_len=32))
H100 = topology_of("h100:64")


def planned(experiment, chips="h100:64"):
    topology = topology_of(chips)
    return predict(experiment, topology, rates_for(topology, experiment.execution.dtype))


@pytest.mark.parametrize("preset", few(sorted(configs.PRESETS), "gpt2-small", "t5-base", "vit-b16", "mixtral-8x7b"))
def test_every_preset_is_planned(preset):
    """On eight chips, with copies of the model: figures that are positive, parts that add up."""
    experiment = configs.get(preset)
    rows = 8 * math.ceil(experiment.train.batch_size / 8)
    experiment = dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, batch_size=rows))
    found = planned(experiment, "h100:8")
    parts = found.memory
    assert parts.weights == 4 * experiment.model.num_params()
    assert parts.peak == pytest.approx(sum(dataclasses.asdict(parts).values()))
    assert found.arithmetic.model == pytest.approx(rows * experiment.model.flops_per_example(*experiment.lengths))
    assert 0 < found.arithmetic.attention < found.arithmetic.computed
    assert 0 < found.mfu < 1
    lines = [*report.summary(found), *report.speed(found), *report.run(outlook(found)), *report.gaps(found)]
    assert all("nan" not in line for line in lines)


def test_a_run_by_hand():
    """1,000 steps of 2 s on 8 devices: 4.44 device hours; at 700 W 3.1 kWh; at 3 an hour 13.33."""
    found = planned(dataclasses.replace(TINY, train=TrainConfig(steps=1000, batch_size=64, seq_len=32)), "h100:8")
    time = dataclasses.replace(found.time, products=2.0, attention=0.0, memory=0.0, hidden=0.0, exposed=0.0)
    whole = outlook(dataclasses.replace(found, time=time), price=3.0)
    assert whole.tokens == 1000 * 64 * 32
    assert whole.device_hours == pytest.approx(2000 / 3600 * 8)
    assert whole.kwh == pytest.approx(2000 / 3600 * 8 * 0.7)
    assert whole.cost == pytest.approx(2000 / 3600 * 8 * 3)
    assert whole.goodput == 1.0


def test_failures_make_a_run_longer_and_say_how_often_to_save():
    checkpoint = dataclasses.replace(TINY.checkpoint, mtbf_hours=5.0)
    found = planned(dataclasses.replace(TINY, checkpoint=checkpoint), "h100:8")
    whole = outlook(found, save_seconds=10.0, restart_seconds=300.0)
    assert whole.interval == young_daly(10.0, 5 * 3600.0)
    assert 0.9 < whole.goodput < 1 - math.sqrt(2 * 10 / (5 * 3600))
    assert whole.wall == pytest.approx(whole.seconds / whole.goodput)
    assert outlook(found, save_seconds=100.0).goodput < whole.goodput


def test_expected_goodput_is_that_of_simulated_failures():
    """Failures at random (exponential), an interval and its save lost with each, and a restart that can fail, too."""
    rng, cost, mtbf, interval, restart = np.random.default_rng(0), 20.0, 1000.0, 180.0, 60.0
    wall, done, segments = 0.0, 0, 20_000
    until = rng.exponential(mtbf)
    while done < segments:
        if until >= interval + cost:
            wall, until, done = wall + interval + cost, until - interval - cost, done + 1
            continue
        wall += until
        while (until := rng.exponential(mtbf)) < restart:
            wall += until
        wall, until = wall + restart, until - restart
    assert expected_goodput(cost, mtbf, interval, restart) == pytest.approx(done * interval / wall, rel=0.02)


def test_a_step_that_does_not_fit_says_so_and_what_would_help():
    found = planned(configs.get("llama3-8b"), "h100:8")
    assert not found.fits
    line = next(line for line in report.summary(found) if "DOES NOT FIT" in line)
    assert "activations take the most: --execution.remat full, or --train.accumulation" in line


def test_a_search_finds_what_fits_the_fastest_first():
    experiment = configs.get("llama3-8b")
    found = search(experiment, H100, rates_for(H100, "bfloat16"))
    times = [each.time.total for each in found.best]
    assert all(each.fits for each in found.best)
    assert times == sorted(times, key=lambda seconds: round(seconds, 4))
    assert {math.prod(each.division.sizes.values()) for each in found.best} == {64}
    by_hand = planned(dataclasses.replace(experiment, mesh=MeshConfig(data=1, fsdp=64)))
    assert times[0] <= by_hand.time.total
    table = list(report.candidates(found, 3))
    assert len(table) == 5
    assert "--mesh." in table[2]


def test_a_search_for_too_few_chips_says_what_the_least_is():
    topology = topology_of("h100:2")
    experiment = configs.get("llama3-70b")
    found = search(experiment, topology, rates_for(topology, "bfloat16"))
    assert not found.best
    (line,) = report.candidates(found, 3)
    assert "none of" in line
    assert "take more chips" in line


def test_candidates_keep_tensor_and_experts_in_a_host():
    mixture = configs.get("mixtral-8x7b")
    meshes = {candidate.mesh for candidate in candidates(mixture, H100)}
    assert {mesh.expert for mesh in meshes} == {1, 2, 4, 8}
    assert max(mesh.tensor * mesh.expert for mesh in meshes) == 8
    assert {mesh.expert for mesh in {each.mesh for each in candidates(TINY, H100)}} == {1}


def test_a_mesh_lies_on_a_slices_sides():
    """As JAX lays them out: a slice of 4x4x4 refuses an axis of 2."""
    assert lies_on((4, 4, 4), (1, 64, 1))
    assert lies_on((4, 4, 4), (4, 16))
    assert lies_on((2, 4, 4), (8, 4))
    assert not lies_on((4, 4, 4), (32, 2))
    assert not lies_on((4, 4, 4), (8, 8))
    meshes = {each.mesh for each in candidates(configs.get("llama3-8b"), topology_of("v5p:64"))}
    assert {(mesh.data, mesh.fsdp) for mesh in meshes if mesh.tensor == mesh.pipeline == 1} == {
        (1, 64), (4, 16), (16, 4), (64, 1),
    }  # fmt: skip


def test_the_command_searches_without_a_compiler(capsys, monkeypatch):
    monkeypatch.setattr(absent, "prepare", lambda devices: None)
    flags = ["gpt2-small", "--chips", "h100:8", "--search", "--best", "2", "--no-compile"]
    assert command.run(lambda: plan.main(flags)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "candidates by the analytic model" in lines[0]
    assert command.run(lambda: plan.main(["gpt2-small", "--price", "0"])) == 2
    assert "--price" in capsys.readouterr().err


def test_products_count_loops_and_parts_of_a_mesh():
    mesh = make_mesh(MeshConfig(data=8))

    def looped(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=5)[0]

    x, w = jnp.ones((16, 32)), jnp.ones((32, 32))
    found = products(jax.jit(looped).trace(x, w).jaxpr)
    assert found.flops == 5 * 2 * 16 * 32 * 32
    assert found.counted
    split = jax.shard_map(lambda x, w: x @ w, mesh=mesh, in_specs=(PartitionSpec("data"), PartitionSpec()),
                          out_specs=PartitionSpec("data"))  # fmt: skip
    assert products(jax.jit(split).trace(x, w).jaxpr).flops == 2 * 16 * 32 * 32
    unknown = products(
        jax.jit(lambda x, w: jax.lax.while_loop(lambda x: x.sum() < 0, lambda x: x @ w, x)).trace(x, w).jaxpr
    )
    assert not unknown.counted


def test_a_compiled_step_computes_what_was_planned():
    """To the FLOP, in the program that XLA makes for this processor, whose loops and products are its own."""
    experiment = dataclasses.replace(TINY, mesh=MeshConfig(data=1, fsdp=2, tensor=2))
    topology = topology_of("cpu:4")
    built = build(experiment, topology)
    found = predict(experiment, topology, rates_for(topology, "float32"), described(built))
    assert compiled_flops(built.executable.as_text()) == found.arithmetic.computed
    assert found.memory.peak == pytest.approx(found.peak, rel=0.3)
    assert found.time.total > 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("preset", ["gpt-python", "vit-digits"])
def test_what_is_planned_is_what_is_measured(preset):
    """Memory within 15 %, FLOPs to the FLOP, on four meshes of fake devices; time is for a quiet machine to tell.

    A preset takes 40 seconds to compile; the bench has four more, of the kinds that are here.
    On fsdp 2 x tensor 2 XLA splits products of an encoder's head, or of its pixels, which nothing asks it to.
    """
    # As users' programs are compiled, not as tests' are.
    env = {
        name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    }
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "bench_plan.py"), "--json", "--presets", preset],
        cwd=ROOT, env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 4
    for row in rows:
        splits_more = preset == "vit-digits" and row["mesh"] == "fsdp 2 x tensor 2"
        assert row["planned_flops"] == pytest.approx(row["flops"], rel=0.003 if splits_more else 1e-9), row
        assert row["compiled_memory"] == pytest.approx(row["memory"], rel=0.15), row
        assert row["analytic_memory"] == pytest.approx(row["memory"], rel=0.25), row
