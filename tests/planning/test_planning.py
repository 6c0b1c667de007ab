"""Planning without the compilers: chips by name, batches of every preset, memory by shardings, errors of one line."""

import dataclasses
import importlib.metadata

import jax
import numpy as np
import pytest

import configs
from tests.exhaustive import few
from tools import plan
from transformer import command
from transformer.errors import UserError
from transformer.models.gpt import GPTConfig
from transformer.parallel.collectives import Collective
from transformer.parallel.hlo import Array
from transformer.parallel.layout import batch_sharding
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.planning import absent, report, step
from transformer.planning.batch import abstract_batch
from transformer.planning.chips import CHIPS, topology_of
from transformer.planning.prediction import predict
from transformer.planning.rates import rates_for
from transformer.planning.step import CompiledStep, Memory, bytes_of
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.program import Program
from transformer.training.session import Session


@pytest.mark.parametrize(
    ("chips", "shape", "devices"),
    [
        ("h100:64", "1x8x8", 64), ("a100:4", "1x1x4", 4), ("v5p:64", "v5p:4x4x4", 64), ("v5e:2x4", "v5e:2x4", 8),
        ("cpu:4", "4", 4),
    ],
)  # fmt: skip
def test_chips_name_a_topology(chips, shape, devices):
    topology = topology_of(chips)
    assert (topology.shape, topology.devices) == (shape, devices)
    chip = CHIPS[topology.chip]
    assert topology.memory == getattr(chip, "memory", topology.memory)
    assert topology.memory * devices > 2**30


@pytest.mark.parametrize(
    ("chips", "words"),
    [
        ("h101:8", "chips: a100, h100"), ("h100", "such as h100:64"), ("h100:12", "multiple of it"),
        ("h100:many", "give a number"), ("v5p:12", "no slice of v5p has 12 chips"), ("v5e:4x", "no slice of v5e"),
        ("cpu:0", "such as cpu:4"),
    ],
)  # fmt: skip
def test_chips_that_there_are_not_are_refused(chips, words):
    with pytest.raises(UserError, match=words):
        topology_of(chips)


def test_without_a_compiler_the_analytic_model_is_used_and_said_to_be(capsys, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(absent.importlib.metadata, "distribution", missing)
    monkeypatch.setattr(absent, "prepare", lambda devices: None)
    for chips, extra in [("h100:8", "aot"), ("v5e:8", "tpu")]:
        assert command.run(lambda chips=chips: plan.main(["gpt2-small", "--chips", chips])) == 0
        lines = capsys.readouterr().out.splitlines()
        assert f"pip install -c constraints.txt -e '.[{extra}]'" in lines[0]
        assert any("nothing was compiled" in line for line in lines)
        assert any(line.startswith("speed ") and "MFU" in line for line in lines)


def test_cudnn_that_is_missing_where_a_program_is_made_is_one_line(monkeypatch):
    """A model whose own examples have an even number of places needs it there already."""

    def without(*_):
        raise RuntimeError("cuDNN not found.")

    monkeypatch.setattr(step, "devices_of", lambda _: jax.devices())
    monkeypatch.setattr(step, "Program", without)
    with pytest.raises(absent.NotInstalled, match="nvidia-cudnn-cu13, or choose --execution.attention xla"):
        step.compile_step(EXPERIMENT, topology_of("h100:8"))


@pytest.mark.parametrize(
    "preset",
    few(
        sorted(configs.PRESETS), "gpt-prefix-python", "bert-python", "t5-python", "bart-python", "marian-python",
        "vit-b16", "mae-b16", "clip-b32", "whisper-tiny",
    ),
)  # fmt: skip
def test_a_preset_has_a_batch(preset):
    """The batch is its own objective's; its rows are those of the preset's update."""
    experiment = configs.get(preset)
    model, train = experiment.model, experiment.train
    batch = abstract_batch(experiment, make_mesh(MeshConfig()))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(batch)} == {train.batch_size}
    of_whole_size = [leaf for name, leaf in batch["inputs"].items() if name in ("images", "features")]
    assert [leaf.shape[1:] for leaf in of_whole_size] == [model.input_size] * bool(model.input_size)
    if "tokens" in batch["inputs"]:
        assert batch["inputs"]["tokens"].shape[-1] == experiment.objective.input_length(train.seq_len)


@pytest.mark.parametrize("preset", ["vit-digits", "mae-digits", "clip-shapes", "whisper-tones"])
def test_a_planned_batch_has_the_shapes_and_dtypes_of_real_data(preset, tmp_path):
    experiment = configs.get(preset)
    data = dataclasses.replace(experiment.data, cache_dir=str(tmp_path))
    experiment = dataclasses.replace(
        experiment, data=data, train=dataclasses.replace(experiment.train, batch_size=8), mesh=MeshConfig(data=1)
    )
    planned = abstract_batch(experiment, make_mesh(MeshConfig(data=1)))
    real = Session(experiment).training_rows[0]
    sizes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), batch) for batch in (planned, real)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("preset", "line"),
    [
        ("gpt2-small", "gpt2-small: 512 rows of 1,024 tokens, packed"),
        (["gpt2-small", "--objective.packing", "concatenated"], "512 rows of 1,024 tokens, concatenated"),
        ("vit-b16", "vit-b16: 1,024 images of 224 x 224 x 3"),
        ("clip-b32", "clip-b32: 32,768 images of 224 x 224 x 3 with 77 tokens"),
        ("whisper-tiny", "whisper-tiny: 256 spectrograms of 3,000 x 80 with 448 tokens"),
    ],
)
def test_a_report_says_what_a_step_reads(preset, line):
    topology = topology_of("h100:8")
    experiment = plan.parse([preset] if isinstance(preset, str) else preset).experiment
    planned = predict(experiment, topology, rates_for(topology, "bfloat16"))
    assert any(said.startswith("step ") and said.endswith(line) for said in report.summary(planned))


MODEL = GPTConfig(vocab_size=64, context_length=32, width=64, num_layers=2, num_heads=4, dropout=0.0)
EXPERIMENT = Experiment("tiny", MODEL, train=TrainConfig(batch_size=8, seq_len=32))


def test_state_under_fsdp_is_an_eighth():
    whole = Program(EXPERIMENT, make_mesh(MeshConfig(data=8))).abstract
    split = Program(EXPERIMENT, make_mesh(MeshConfig(fsdp=8))).abstract
    assert bytes_of(split) == pytest.approx(bytes_of(whole) / 8, rel=0.1)


@pytest.mark.exhaustive
def test_a_step_is_lowered_without_arrays_and_traced_without_harm():
    """A trace of `step` may come before the first call: what the program keeps must be no tracer."""
    mesh = make_mesh(MeshConfig(data=8))
    with jax.set_mesh(mesh):
        program = Program(EXPERIMENT, mesh)
        batch = abstract_batch(EXPERIMENT, mesh)
        lowered = program.lower(batch)
        jax.jit(program.step).lower(program.abstract, batch)
        state = program.init()
        zeros = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype), batch_sharding(mesh)), batch)
        state, metrics = program.step(state, zeros)
    assert int(state.step) == 1
    assert np.isfinite(metrics["grad_norm"])
    assert "stablehlo" in lowered.as_text()


def test_a_report_adds_up():
    def sent(kind, times, dims, source, counted=True):
        arrays = (Array("f32", dims),)
        return Collective(kind, ("fsdp",), False, 4, times, counted, arrays, "jit(step)/transpose(f)/dot", source)

    mib = 2**18  # of float32
    found = [
        sent("all-gather", 3, (mib,), "/x/lib/site-packages/optax/a.py:1"),
        sent("all-gather", 1, (2, mib), "/x/lib/site-packages/optax/a.py:1"),
        sent("all-reduce", 2, (mib,), "", counted=False),
    ]
    header, first, second, blank, gathers, reduces, total, note = report.collectives(found)
    assert header.split()[0] == "kind"
    assert first.split() == ["all-gather", "fsdp", "4", "4", "5.0", "3.8", "f32[2,262144]", "backward", "optax/a.py:1"]
    assert second.split()[:6] == ["all-reduce", "fsdp", "4", "2+", "2.0", "3.0"]
    assert (blank, gathers.split()) == ("", ["all-gather", "fsdp", "4", "5.0", "3.8"])
    assert reduces.split() == ["all-reduce", "fsdp", "2+", "2.0", "3.0"]
    assert total.split() == ["all", "6+", "7.0", "6.8"]
    assert note.startswith("+ in a loop")


@pytest.mark.parametrize(
    ("kinds", "advised"),
    [({"all-gather": 8, "reduce-scatter": 8}, False), ({"all-reduce": 8, "all-gather": 1}, True)],
)
def test_gathers_that_became_all_reduces_are_told(kinds, advised):
    def over_fsdp(kind, times):
        array = Array("bf16", (1024, 1024))
        return Collective(kind, ("fsdp",), False, 8, times, True, (array,), "", "")

    found = [over_fsdp(kind, times) for kind, times in kinds.items()]
    compiled = CompiledStep(make_mesh(MeshConfig(data=1, fsdp=8)), Memory(0, 0, 0, 0, 0), found)
    experiment = configs.get("gpt2-small")
    lines = list(report.advice(compiled, experiment))
    assert len(lines) == advised
    assert all("--mesh.data 4 --mesh.fsdp 2" in line for line in lines)
    train = dataclasses.replace(experiment.train, accumulation=2)
    *same, note = report.advice(compiled, dataclasses.replace(experiment, train=train))
    assert same == lines
    assert "each of the 2 microbatches" in note
