"""Experiments go to JSON and come back the same; what is wrong with a record is said by field."""

import dataclasses
import json

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

import configs
import train
from transformer import command
from transformer.checkpoint import to_json
from transformer.errors import UserError
from transformer.models.bart import BartConfig
from transformer.models.bert import BertConfig
from transformer.models.gpt import GPTConfig
from transformer.models.llama import LlamaConfig
from transformer.models.spanbert import SpanBertConfig
from transformer.models.t5 import T5Config
from transformer.objectives import UL2, Denoising, MaskedLM, PrefixLM, Seq2Seq, SpanCorruption
from transformer.training import experiment as experiments
from transformer.training.run import Run
from transformer.transfer.config import InitConfig


@pytest.mark.parametrize("name", configs.PRESETS)
def test_every_preset_survives_json(name):
    preset = configs.get(name)
    assert preset.name == name
    record = json.loads(json.dumps(experiments.to_dict(preset)))
    assert experiments.from_dict(record, "x") == preset


@given(
    rate=st.floats(1e-6, 1.0),
    steps=st.integers(1, 10**9),
    path=st.none() | st.text(),
    mixture=st.lists(st.text()).map(tuple),
    chunk=st.none() | st.integers(1, 10**6),
)
def test_any_field_survives_json(rate, steps, path, mixture, chunk):
    base = configs.get("gpt-python")
    experiment = dataclasses.replace(
        base,
        optimizer=dataclasses.replace(base.optimizer, learning_rate=rate),
        train=dataclasses.replace(base.train, steps=steps),
        data=dataclasses.replace(base.data, path=path, mixture=mixture),
        objective=dataclasses.replace(base.objective, chunk=chunk),
    )
    assert experiments.from_dict(json.loads(json.dumps(experiments.to_dict(experiment))), "x") == experiment


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["model"].update(family="gtp"), "gtp"),
        (lambda r: r["model"].update(widht=3), "widht"),
        (lambda r: r["train"].update(stepz=3), "stepz"),
        (lambda r: r["train"].update(steps="many"), "many"),
        (lambda r: r["objective"].update(kind="causal"), "causal"),
        (lambda r: r.update(objective="causal_lm"), "causal_lm"),
        (lambda r: r["objective"].update(rate=0.15), "rate"),
        (lambda r: r["objective"].update(z_loss=-1), "z_loss is -1.0"),
        (lambda r: r.pop("model"), "model"),
    ],
)
def test_a_wrong_record_is_refused_by_name(change, message):
    record = json.loads(json.dumps(experiments.to_dict(configs.get("gpt-python"))))
    change(record)
    with pytest.raises(UserError, match=f"^here.json: .*{message}"):
        experiments.from_dict(record, "here.json")


def test_a_record_of_before_init_had_a_group_is_read():
    today = dataclasses.replace(configs.get("gpt-python"), init=InitConfig("some/run", vocabulary="mean"))
    record = json.loads(json.dumps(experiments.to_dict(today)))
    init = record.pop("init")
    names = {"path": "init_from", **{name: f"init_{name}" for name in ("leaves", "vocabulary", "positions")}}
    old = record | {names[name]: value for name, value in init.items() if name in names}
    assert experiments.from_dict(old, "x") == today
    with pytest.raises(UserError, match="init_from"):
        experiments.from_dict(old | {"init": init}, "x")


def test_sequence_longer_than_the_context_is_refused():
    base = configs.get("gpt-python")
    with pytest.raises(UserError, match=r"train.seq_len 4096 is longer than the model's context"):
        dataclasses.replace(base, train=dataclasses.replace(base.train, seq_len=4096))


TINY = {"vocab_size": 64, "context_length": 64, "width": 16, "num_layers": 1, "num_heads": 2, "mlp_width": 32}
FITTING = [
    (MaskedLM(), BertConfig(**TINY, head="masked_lm")),
    (MaskedLM(sentence="nsp", static_copies=10), BertConfig(**TINY, head="pretraining")),
    (MaskedLM(choose="spans", boundary=True), SpanBertConfig(**TINY, head="pretraining")),
    (SpanCorruption(z_loss=1e-4), T5Config(vocab_size=64)),
    (Denoising(rotate=True), T5Config(vocab_size=64)),
    (Seq2Seq(target_len=32), T5Config(vocab_size=64)),
    (UL2(regular=0.0, sequential=0.5), T5Config(vocab_size=64)),
    (PrefixLM(chunk=16), LlamaConfig(vocab_size=64, context_length=64)),
]


def experiment_of(objective, model, seq_len=64):
    base = configs.get("gpt-python")
    return dataclasses.replace(
        base, objective=objective, model=model, train=dataclasses.replace(base.train, seq_len=seq_len)
    )


@pytest.mark.parametrize(("objective", "model"), FITTING)
def test_every_objective_survives_json_and_takes_flags(objective, model):
    experiment = experiment_of(objective, model)
    record = json.loads(json.dumps(experiments.to_dict(experiment)))
    assert record["objective"]["kind"] == objective.name
    assert experiments.from_dict(record, "x") == experiment
    default = train.Command(experiment=experiment, workdir="x")
    parsed = command.parse(train.Command, ["--objective.z-loss", "0.5"], prog="x", default=default)
    assert parsed.experiment == experiment_of(dataclasses.replace(objective, z_loss=0.5), model)
    with pytest.raises(UserError, match="Perhaps you meant: --objective.z-loss"):
        command.parse(train.Command, ["--objective.z-los", "0.5"], prog="x", default=default)


def test_objective_and_model_must_fit():
    bert, t5 = FITTING[0][1], FITTING[3][1]
    with pytest.raises(UserError, match="the objective masked_lm trains an encoder, and t5 is an encoder-decoder"):
        experiment_of(MaskedLM(), t5)
    with pytest.raises(UserError, match="the objective causal_lm trains a decoder, and bert is an encoder"):
        experiment_of(configs.get("gpt-python").objective, bert)
    with pytest.raises(UserError, match=r"needs model.head pretraining, and this is masked_lm"):
        experiment_of(MaskedLM(sentence="sop"), bert)
    with pytest.raises(UserError, match=r"needs model.head language_model, and this is token_classification"):
        experiment_of(configs.get("gpt-python").objective, GPTConfig(head="token_classification"))
    with pytest.raises(UserError, match=r"train.seq_len 8 is too short for masked_lm"):
        experiment_of(MaskedLM(), bert, seq_len=8)
    bart = BartConfig(vocab_size=64, context_length=64)
    with pytest.raises(UserError, match=r"targets of 128 tokens are longer than the model's context of 64"):
        experiment_of(Seq2Seq(target_len=128), bart)


def test_differences_name_the_fields():
    old = configs.get("gpt-python")
    new = dataclasses.replace(
        old, model=dataclasses.replace(old.model, num_layers=9), mesh=dataclasses.replace(old.mesh, tensor=2)
    )
    changed = experiments.differences(old, new)
    assert set(changed) == {"model.num_layers", "mesh.tensor"}
    assert experiments.may_change("mesh.tensor")
    assert not experiments.may_change("model.num_layers")


def begun(tmp_path, experiment) -> Run:
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "experiment.json").write_bytes(to_json(experiments.to_dict(experiment)))
    return Run(tmp_path)


def test_a_folder_with_another_experiment_is_refused_with_the_fields(tmp_path):
    old = configs.get("gpt-python")
    run = begun(tmp_path, old)
    new = dataclasses.replace(old, model=dataclasses.replace(old.model, num_layers=9))
    with pytest.raises(UserError, match=r"another experiment: model.num_layers was \d+, now 9"):
        run.check(new)
    longer = dataclasses.replace(old, train=dataclasses.replace(old.train, steps=7777))
    assert run.check(longer) == {"train.steps": (old.train.steps, 7777)}


def test_folders_that_are_no_runs_are_refused(tmp_path):
    experiment = configs.get("gpt-python")
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is not empty and holds no run"):
        Run(tmp_path).check(experiment)
    with pytest.raises(UserError, match="is a file"):
        Run(tmp_path / "thesis.tex").check(experiment)
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(UserError, match="experiment.json: not JSON"):
        experiments.read(epath.Path(tmp_path) / "experiment.json")


def test_an_experiment_that_never_learnt_anything_may_be_corrected(tmp_path):
    old = configs.get("gpt-python")
    (tmp_path / "experiment.json").write_bytes(to_json(experiments.to_dict(old)))
    assert Run(tmp_path).check(configs.get("gpt2-small")) == {}
