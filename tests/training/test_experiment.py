"""Experiments go to JSON and come back the same; what is wrong with a record is said by field."""

import dataclasses
import json

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

import configs
from transformer.errors import UserError
from transformer.training import experiment as experiments
from transformer.training.run import Run, to_json


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
        (lambda r: r.pop("model"), "model"),
    ],
)
def test_a_wrong_record_is_refused_by_name(change, message):
    record = json.loads(json.dumps(experiments.to_dict(configs.get("gpt-python"))))
    change(record)
    with pytest.raises(UserError, match=f"^here.json: .*{message}"):
        experiments.from_dict(record, "here.json")


def test_sequence_longer_than_the_context_is_refused():
    base = configs.get("gpt-python")
    with pytest.raises(UserError, match=r"--train.seq-len 4096 is longer than the model's context"):
        dataclasses.replace(base, train=dataclasses.replace(base.train, seq_len=4096))


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
