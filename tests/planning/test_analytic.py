"""The analytic model: against closed forms, a published formula, and what compiled programs send and hold."""

import dataclasses
import math

import hypothesis.strategies as st
import jax
import pytest
from hypothesis import given, settings

import configs
from tests.exhaustive import few
from transformer.errors import UserError
from transformer.layers.execution import REMAT_POLICIES
from transformer.models.gpt import GPTConfig
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.planning import sends
from transformer.planning.arithmetic import arithmetic
from transformer.planning.batch import abstract_batch
from transformer.planning.division import Division
from transformer.planning.memory import memory, moments
from transformer.planning.products import products
from transformer.planning.step import bytes_of
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig
from transformer.training.program import Program

GIB = 2**30
POWERS = st.sampled_from([1, 2, 4, 8])


def divided(name, *, mesh, remat=None, attention=None, chunk=None, words=None, **train):
    """A preset's step on a mesh, which is as many devices."""
    experiment = configs.get(name) if isinstance(name, str) else name
    if remat is None and experiment.execution.remat == "auto":
        remat = "full" if experiment.model.num_params() > 1e9 else "none"
    execution = {key: value for key, value in (("remat", remat), ("attention", attention)) if value}
    if words:
        experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, vocab_size=words))
    if chunk:
        experiment = dataclasses.replace(experiment, objective=dataclasses.replace(experiment.objective, chunk=chunk))
    experiment = dataclasses.replace(
        experiment,
        mesh=MeshConfig(**({"data": 1} | mesh)),
        train=dataclasses.replace(experiment.train, **train),
        execution=dataclasses.replace(experiment.execution, **execution),
    )
    return Division(experiment, math.prod(size for axis, size in mesh.items() if axis != "zero1"))


LLAMA = {"batch_size": 64, "seq_len": 4096}


@pytest.mark.parametrize(
    ("name", "mesh", "sizes", "gib"),
    [
        ("llama3-8b", {"fsdp": 8}, LLAMA | {"batch_size": 8}, 48.1),
        ("llama3-8b", {"fsdp": 64}, LLAMA, 54.1),
        ("llama3-8b", {"data": 8, "fsdp": 8}, LLAMA, 54.7),
        ("llama3-8b", {"fsdp": 8, "tensor": 8}, LLAMA, 77.2),
        ("gpt2-small", {"fsdp": 8}, {"batch_size": 64}, 0.77),
        ("gpt2-small", {"fsdp": 64}, {"batch_size": 512}, 0.87),
        ("gpt2-small", {"data": 8, "zero1": True}, {"batch_size": 8, "seq_len": 512}, 831 / 1024),
        ("mixtral-8x7b", {"fsdp": 64}, {"attention": "xla", "accumulation": 8, "seq_len": 4096}, 3412.6),
        ("gpt3-175b", {"fsdp": 128, "tensor": 8}, {"attention": "xla", "accumulation": 12, "words": 50304}, 2458.4),
    ],
)
def test_what_is_sent_is_what_compiled_programs_send(name, mesh, sizes, gib):
    """The right column is of steps compiled for H100s: docs/parallelism.md has the tables."""
    sent = sum(each.times * each.sent for each in sends.collectives(divided(name, mesh=mesh, **sizes)))
    assert sent / GIB == pytest.approx(gib, rel=0.02)


@pytest.mark.parametrize(
    ("name", "mesh", "sizes", "peak"),
    [
        ("llama3-8b", {"fsdp": 8}, LLAMA | {"batch_size": 8}, 20.23),
        ("llama3-8b", {"fsdp": 64}, LLAMA, 6.91),
        ("llama3-8b", {"data": 8, "fsdp": 8}, LLAMA, 20.23),
        ("llama3-8b", {"fsdp": 8, "tensor": 8}, LLAMA, 12.77),
        ("llama3-8b", {"fsdp": 64}, LLAMA | {"remat": "attention"}, 7.927),
        ("llama3-8b", {"fsdp": 64}, LLAMA | {"remat": "projections+attention"}, 17.427),
        ("llama3-8b", {"fsdp": 64}, LLAMA | {"remat": "none"}, 27.476),
        ("gpt2-small", {"fsdp": 8}, {"batch_size": 64}, 3.19),
        ("gpt2-small", {"fsdp": 64}, {"batch_size": 512}, 2.99),
        ("llama3-8b", {"fsdp": 64}, LLAMA | {"attention": "xla"}, 8.570),
        ("llama3-8b", {"fsdp": 64}, {"attention": "xla", "accumulation": 8}, 19.005),
        ("mixtral-8x7b", {"fsdp": 64}, {"attention": "xla", "accumulation": 8, "seq_len": 4096}, 39.390),
        ("gpt3-175b", {"fsdp": 128, "tensor": 8}, {"attention": "xla", "accumulation": 12, "words": 50304}, 8.329),
    ],
)
def test_memory_is_near_what_compiled_programs_take(name, mesh, sizes, peak):
    """The right column is of steps compiled for H100s."""
    chunk = {"chunk": 128} if name == "gpt2-small" else {}
    found = memory(divided(name, mesh=mesh, **sizes, **chunk), kernel="attention" not in sizes)
    assert found.peak / GIB == pytest.approx(peak, rel=0.15)


def test_a_kernel_that_reads_no_mask_skips_what_causality_hides():
    """The pairs counted of 4,096 x 4,096 are those on the diagonal's blocks of 128 and below."""
    experiment = configs.get("llama3-8b")
    objective = dataclasses.replace(experiment.objective, packing="concatenated")
    steps = [
        arithmetic(divided(each, mesh={"fsdp": 64}, **LLAMA), kernel=True)
        for each in (experiment, dataclasses.replace(experiment, objective=objective))
    ]
    assert steps[1].attention / steps[0].attention == pytest.approx((4096 + 128) / (2 * 4096))
    assert steps[1].computed < steps[0].computed
    assert steps[1].model == steps[0].model


def test_a_layers_collectives_are_those_of_its_weights():
    """LLaMA 3 8B: 218,103,808 weights a layer, in bfloat16 forwards and backwards, in float32 once."""
    division = divided("llama3-8b", mesh={"fsdp": 64}, **LLAMA)
    layers = [each for each in sends.collectives(division) if each.times in (32, 64)]
    payload = {
        kind: sum(each.times * each.payload for each in layers if each.kind == kind)
        for kind in ("all-gather", "reduce-scatter")
    }
    assert payload == {"all-gather": 32 * 2 * 2 * 218_103_808, "reduce-scatter": 32 * 4 * 218_103_808}


MODEL = GPTConfig(vocab_size=64, context_length=32, width=64, num_layers=4, num_heads=8, dropout=0.0)
TINY = Experiment("tiny", MODEL, train=TrainConfig(batch_size=16, seq_len=32))


@pytest.mark.parametrize("mesh", [{"data": 8}, {"fsdp": 8}, {"fsdp": 2, "tensor": 4}, {"data": 4, "pipeline": 2}])
@pytest.mark.parametrize("optimizer", ["adamw", "lion", "muon", "lamb"])
def test_the_state_is_the_programs_own(mesh, optimizer):
    experiment = dataclasses.replace(TINY, optimizer=OptimizerConfig(optimizer))
    division = divided(experiment, mesh=mesh)
    found = memory(division, kernel=False)
    program = Program(division.experiment, make_mesh(division.experiment.mesh))
    counters = 64  # a few integers
    assert found.state == pytest.approx(bytes_of(program.abstract), abs=counters)
    assert found.weights == bytes_of(program.abstract.params)


def test_zero1_splits_moments_alone():
    whole, split = (divided(TINY, mesh={"data": 8} | zero1) for zero1 in ({}, {"zero1": True}))
    assert moments(split) == pytest.approx(moments(whole) / 8, rel=0.02)
    program = Program(split.experiment, make_mesh(split.experiment.mesh))
    assert moments(split) == pytest.approx(bytes_of(program.abstract.opt_state), abs=64)
    assert memory(split, kernel=False).weights == memory(whole, kernel=False).weights


def test_activations_of_gpt_are_korthikantis():
    """Korthikanti et al. 2022, equation 1: s b h (34 + 5 a s / h) bytes a layer with 16-bit activations.

    Of theirs, 2 s b h are masks of dropout, which is off here; a kernel keeps no scores.
    """
    division = divided("gpt3-xl", mesh={"data": 1}, remat="none", batch_size=2)
    model, (length, _) = division.experiment.model, division.experiment.lengths
    kept = memory(division, kernel=True).activations - 2 * 2 * 2 * length * model.width
    unit = length * 2 * model.width * model.num_layers
    assert kept / unit == pytest.approx(32, rel=0.01)


@pytest.mark.parametrize("remat", ["none", *REMAT_POLICIES])
@pytest.mark.parametrize(
    ("preset", "mesh"),
    few(
        [
            ("gpt-python", {}), ("bert-python", {}), ("t5-python", {}), ("moe-python-tiny", {}),
            ("llama-python", {"pipeline": 2}), ("llama-python", {"fsdp": 2, "sequence": 2}),
        ],
        ("gpt-python", {}),
    ),
)  # fmt: skip
def test_flops_are_those_of_the_traced_step(preset, mesh, remat):
    """To the FLOP, with what is computed again; a layer's last product is not, where no norm asks for it."""
    experiment = configs.get(preset)
    experiment = dataclasses.replace(
        experiment,
        optimizer=OptimizerConfig(),
        execution=dataclasses.replace(experiment.execution, remat=remat, unroll=1),
        mesh=MeshConfig(data=1, **mesh),
    )
    devices = make_mesh(experiment.mesh)
    with jax.set_mesh(devices):
        traced = Program(experiment, devices).trace(abstract_batch(experiment, devices))
    found = arithmetic(Division(experiment, devices.size), kernel=False)
    assert found.computed == pytest.approx(products(traced.jaxpr).flops, rel=1e-9)
    rows, lengths = experiment.train.batch_size, experiment.lengths
    assert found.model == pytest.approx(rows * experiment.model.flops_per_example(*lengths))


def test_a_pipelines_ticks_are_computed_and_idle_stages_with_them():
    division = divided(TINY, mesh={"pipeline": 4}, remat="none")
    stages, microbatches = division.pipeline.stages, division.pipeline.microbatches
    by_kind = MODEL.counts.flops_by_kind(32)
    dense = 16 * (by_kind["attention"] + by_kind["mlp"])
    found = arithmetic(division, kernel=False)
    ticks = (microbatches + stages - 1) / microbatches
    assert found.computed - found.attention == pytest.approx(dense * 4 / 3 * ticks + 16 * by_kind["head"])


@settings(max_examples=40, deadline=None)
@given(data=POWERS, fsdp=POWERS, tensor=POWERS)
def test_more_devices_of_any_axis_never_take_more_of_one(data, fsdp, tensor):
    """Laws: parameters fall as 1 / (fsdp x tensor), activations as the rows; a batch stays as large as it is."""
    experiment = dataclasses.replace(TINY, train=TrainConfig(batch_size=64, seq_len=32))
    one = memory(divided(experiment, mesh={"data": 1}), kernel=False)
    found = memory(divided(experiment, mesh={"data": data, "fsdp": fsdp, "tensor": tensor}), kernel=False)
    assert found.peak <= one.peak * 1.001
    assert found.weights >= one.weights / (fsdp * tensor)
    assert found.weights <= one.weights / (fsdp * min(tensor, 2)) * 1.2 + 4 * 32 * 64
    assert found.activations <= one.activations / (data * fsdp) * 1.001


@settings(max_examples=30, deadline=None)
@given(fsdp=POWERS, remat=st.sampled_from(["none", *REMAT_POLICIES]), kernel=st.booleans())
def test_memory_falls_with_fsdp_and_with_what_is_computed_again(fsdp, remat, kernel):
    def kept(fsdp, remat):
        return memory(divided("gpt2-small", mesh={"fsdp": fsdp}, remat=remat, batch_size=64), kernel=kernel)

    found = kept(fsdp, remat)
    assert kept(2 * fsdp, remat).peak < found.peak
    assert kept(fsdp, "full").activations <= found.activations <= kept(fsdp, "none").activations
    assert all(getattr(found, part.name) >= 0 for part in dataclasses.fields(found))


def test_a_kernel_keeps_no_scores():
    dense, kernel = (memory(divided("gpt2-small", mesh={"fsdp": 8}, batch_size=64), kernel=k) for k in (False, True))
    scores = 2 * 8 * 12 * 12 * 1024 * 1024  # bytes, rows, layers, heads
    assert 0.4 * scores < dense.activations - kernel.activations < scores


def test_a_mixtures_buffers_have_room_for_every_choice():
    small, large = (
        divided("mixtral-8x7b", mesh={"fsdp": 8 // n, "expert": n}, remat="none", batch_size=8, seq_len=1024)
        for n in (1, 4)
    )
    kept = [memory(division, kernel=True).activations for division in (small, large)]
    assert kept[1] > 2 * kept[0]


def test_a_mesh_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="'vocab' dimension of 50257"):
        divided("gpt2-small", mesh={"tensor": 2}, batch_size=64)
    with pytest.raises(UserError, match="does not use the 8 devices"):
        Division(dataclasses.replace(TINY, mesh=MeshConfig(data=4)), 8)


def test_no_arrays_are_made():
    """175 billion parameters: their sizes alone are looked at."""
    experiment = configs.get("gpt3-175b")
    model = dataclasses.replace(experiment.model, vocab_size=50304)
    division = divided(dataclasses.replace(experiment, model=model), mesh={"fsdp": 128, "tensor": 8})
    assert memory(division, kernel=True).weights * 1024 == pytest.approx(4 * model.num_params(), rel=0.01)
    assert not [each for each in jax.live_arrays() if each.size > 10**6]
