"""tools/parallel_check.py: what it prints, its exit codes, and the small experiment that --shrink makes."""

import dataclasses

import pytest

import configs
from tests import tool_calls
from tests.exhaustive import few
from tests.tiny_experiments import experiment_of
from tests.tiny_models import TINY
from tools import parallel_check as tool
from transformer.debugging import parallel_check
from transformer.debugging.parallel_check import Difference
from transformer.debugging.shrunk_experiment import shrunk_experiment
from transformer.layers.execution import Execution
from transformer.objectives.causal_lm import CausalLM
from transformer.training.session import Session


@pytest.fixture
def call(capsys, monkeypatch):
    """The tool, on the tests' eight devices."""
    monkeypatch.setattr(tool, "start", lambda devices, small: None)
    return tool_calls.caller(tool.main, capsys)


@pytest.fixture
def canned(monkeypatch):
    """Nothing is computed: every mesh with `tensor` differs."""

    class Canned:
        def __init__(self, experiment, batches):
            assert len(batches) == 2
            assert experiment.execution.dtype == "float32"

        def compare(self, mesh):
            first = ("gradients", "backbone/token_embedding/embedding", 0.25) if mesh.tensor > 1 else None
            return Difference(dict.fromkeys(parallel_check.PARTS, 1e-7), first)

    monkeypatch.setattr(parallel_check, "Reference", Canned)


@pytest.mark.usefixtures("canned")
def test_says_which_axis_and_which_tensor(call):
    code, out, _ = call("llama3-8b", "--shrink", "--devices", "4", "--updates", "2")
    assert code == 1
    assert "tensor 2: the first to differ is backbone/token_embedding/embedding (gradients), by 0.25 of its size" in out
    assert out.count("the first to differ") == 1  # pairs with `tensor` follow from it
    assert "data 2 x tensor 2" in out
    code, out, _ = call("llama3-8b", "--shrink", "--devices", "4", "--updates", "2", "--model.num-kv-heads", "32")
    assert "tensor 4: the first" in out


@pytest.mark.usefixtures("canned")
def test_says_what_was_not_checked(call):
    code, out, _ = call("llama3-8b", "--shrink", "--updates", "2", "--model.num-layers", "1", "--devices", "2")
    assert code == 1
    assert "not checked  pipeline: parameter backbone/stack/layers/" in out
    code, out, _ = call("gpt2-xl", "--shrink", "--devices", "3", "--updates", "2", "--model.num-heads", "25")
    assert code == 0
    assert "give the numbers of one, to 1e-05" in out


def test_meshes_divide_a_pipelines_microbatches():
    """The most devices that do; not the most, of which a microbatch of one row would then be refused."""
    model = dataclasses.replace(TINY["llama"], num_layers=8)
    experiment = experiment_of(model, execution=Execution(microbatches=8))
    mesh = {verdict.axes: verdict.mesh for verdict in parallel_check.meshes(experiment, 8)}[frozenset(["pipeline"])]
    assert mesh.pipeline == 8
    refusals = {verdict.axes: verdict.refusal for verdict in parallel_check.meshes(experiment, 8)}
    assert "8 rows / --execution.microbatches 8 = 1 rows" in refusals[frozenset(["data", "pipeline"])]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["llama3-9b"], "unknown preset 'llama3-9b': did you mean llama3-8b"),
        (["llama3-8b"], "parameters on 8 devices take about"),
        (["gpt-text"], "--data"),
        (["gpt-python", "--devices", "1"], "--devices 1: give at least 2"),
        (["gpt-python", "--updates", "0"], "--updates 0: give at least 1"),
        (["gpt-python", "--modle.width", "8"], "--model.width"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(args, words, call):
    assert words in tool_calls.refuser(call)(*args)


SHRINKABLE = (
    "gpt3-175b", "gpt1", "llama3-8b", "qwen3-30b-a3b", "mixtral-8x7b", "olmoe-1b-7b", "deepseek-v3", "bert-large",
    "roberta-large", "albert-xxlarge", "distilbert-base", "spanbert-large", "clip-l14", "siglip-b16", "transformer-big",
    "ul2-20b", "bart-large", "marian-base",
)  # fmt: skip
"""A preset of each family but those of `READERS`, mostly its largest. They are named: to build all presets, so as to
ask for their families, takes every process that collects these tests 16 seconds."""

READERS = ("vit-b16", "mae-b16", "clip-b32", "whisper-large-v3")
"""Presets of images and of speech."""


@pytest.mark.parametrize("name", few(sorted({*SHRINKABLE, *READERS}), "llama3-8b", "bart-large", *READERS))
def test_shrinking_keeps_the_structure(name, tmp_path):
    preset = configs.get(name)
    small = shrunk_experiment(preset, tmp_path, devices=8)
    assert small.model.num_params() < 3e6
    assert small.model.num_params() <= preset.model.num_params()
    kinds = {(parameter.path, len(parameter.shape)) for parameter in preset.model.parameters.values()}
    assert {(parameter.path, len(parameter.shape)) for parameter in small.model.parameters.values()} == kinds
    same = ("kind", "family", "head", "tie_embeddings", "activation", "dropout")
    assert [getattr(small.model, field, None) for field in same] == [
        getattr(preset.model, field, None) for field in same
    ]
    for field in ("num_kv_heads",):
        before, after = (getattr(model, field, None) for model in (preset.model, small.model))
        if before is not None:
            assert preset.model.num_heads / before == small.model.num_heads / after
    rows = Session(parallel_check.comparable(small)).training_rows[0]
    assert len(rows["targets"]) == 16 * small.train.accumulation
    if isinstance(small.objective, CausalLM):  # whose rows are packed: else no fault of segments would be found
        assert (rows["inputs"]["segment_ids"].max(axis=1) > 1).mean() > 0.5


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["gpt-prefix-python", "clip-b32"])
def test_a_preset_is_computed(name, call):
    code, out, _ = call(name, "--shrink", "--devices", "2")
    assert code == 0, out
    assert "meshes of up to 2 devices give the numbers of one" in out
