"""Runs that learn from a teacher: what is logged, saved and resumed; meshes and microbatches change nothing."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.distillation.runs import STUDENT, TEACHER, experiment_of, write_teacher
from tests.training.runs import rows, train
from transformer import checkpoint
from transformer.debugging import parallel_check
from transformer.debugging.parallel_check import Reference
from transformer.errors import UserError
from transformer.objectives import MaskedLM
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.params import flatten
from transformer.planning.batch import abstract_batch
from transformer.planning.step import bytes_of
from transformer.training.program import Program
from transformer.training.session import Session


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """The experiment of a student whose teacher is on disk."""
    folder = tmp_path_factory.mktemp("distillation")
    write_teacher(folder / "teacher")
    return experiment_of(folder, folder / "teacher")


@pytest.fixture(scope="module")
def finished(student, tmp_path_factory):
    """Its run, and the folder of that."""
    folder = tmp_path_factory.mktemp("run") / "run"
    return train(student, folder), folder


def same(have, want):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(have), jax.device_get(want))


def teachers_weights(student):
    return checkpoint.restore_model(checkpoint.find(student.teacher.path), make_mesh(MeshConfig(data=1)))[1]


def test_what_the_teacher_adds_is_logged_and_an_evaluation_is_of_the_model_alone(finished, student):
    _, folder = finished
    logged = [row for row in rows(folder) if "loss" in row]
    assert len(logged) == student.train.steps
    for row in logged:
        want = 5 * row["teacher_kl"] + 2 * row["nll"] + row["teacher_cosine"]
        assert row["loss"] == pytest.approx(want, rel=1e-4)
    assert logged[-1]["teacher_kl"] < logged[0]["teacher_kl"]
    [evaluation] = [row for row in rows(folder) if "eval_loss" in row]
    assert not any("teacher" in name for name in evaluation)
    scored = dataclasses.replace(student, train=dataclasses.replace(student.train, eval_batches=2))
    session = Session(scored, tokenizer_dir=folder / "tokenizer", trains=False)
    with jax.set_mesh(session.mesh):
        assert session.frozen == {}
        alone = session.evaluate(finished[0].params)
    assert alone.loss == pytest.approx(evaluation["eval_loss"], rel=1e-6)


def test_the_teacher_does_not_change_and_no_checkpoint_holds_it(finished, student):
    result, folder = finished
    same(result.session.frozen["teacher"], teachers_weights(student))
    saved = checkpoint.find(folder)
    architecture, params = checkpoint.restore_model(saved, make_mesh(MeshConfig(data=1)))
    assert architecture == STUDENT
    same(params, result.params)
    assert not list(Path(saved).rglob("*teacher*"))
    recorded = checkpoint.reading.digests(saved)
    assert recorded["params"].keys() == STUDENT.parameters.keys()
    assert not any("type_embedding" in path or "pooler" in path for path in recorded["opt_state"])


def test_a_student_begins_with_its_teachers_layers(student):
    session = Session(student)
    with jax.set_mesh(session.mesh):
        first = flatten(session.initial_state().params)
    theirs = flatten(teachers_weights(student))
    for path, leaf in first.items():
        want = theirs[path][np.array([0, 2])] if path.startswith("backbone/stack/") else theirs[path]
        np.testing.assert_array_equal(leaf, want)


def test_a_resumed_run_is_the_run(finished, student, tmp_path):
    result, _ = finished
    train(dataclasses.replace(student, train=dataclasses.replace(student.train, steps=3)), tmp_path / "run")
    resumed = train(student, tmp_path / "run")
    same(resumed.params, result.params)


def test_a_teacher_that_got_newer_is_another(student, tmp_path):
    write_teacher(tmp_path / "teacher", step=1)
    asked = dataclasses.replace(
        student,
        teacher=dataclasses.replace(student.teacher, path=str(tmp_path / "teacher")),
        train=dataclasses.replace(student.train, steps=1),
    )
    train(asked, tmp_path / "run")
    write_teacher(tmp_path / "teacher", step=2)
    with pytest.raises(UserError, match="holds another experiment: teacher.path was .*checkpoints/1', now .*points/2'"):
        train(asked, tmp_path / "run")


@pytest.fixture(scope="module")
def reference(student):
    """The student on one device, with what compares layers too; whole rows, and one that is mostly padding."""
    experiment = parallel_check.comparable(
        dataclasses.replace(student, teacher=dataclasses.replace(student.teacher, hidden=1.0, attention=1.0))
    )
    [batch] = [Session(experiment).training_rows[0]]
    batch["weights"][3] *= 0.0
    batch["inputs"]["segment_ids"][3, 5:] = 0
    batch["weights"][5, 2:] = 0.0
    return experiment, batch, Reference(experiment, [batch])


@pytest.mark.parametrize(
    "mesh", [MeshConfig(data=2, fsdp=2), MeshConfig(data=1, tensor=2, sequence=2)], ids=parallel_check.name_of
)
def test_meshes_change_nothing(reference, mesh):
    _, _, on_one = reference
    assert on_one.compare(mesh).first is None


@pytest.mark.exhaustive
def test_a_pipeline_changes_nothing(reference, student):
    _, batch, _ = reference
    experiment = parallel_check.comparable(student)
    assert Reference(experiment, [batch]).compare(MeshConfig(data=1, pipeline=2)).first is None


@pytest.mark.parametrize("mesh", [MeshConfig(data=1), MeshConfig(data=2, fsdp=2)], ids=parallel_check.name_of)
def test_microbatches_change_nothing(reference, mesh):
    experiment, batch, on_one = reference
    train = dataclasses.replace(experiment.train, accumulation=2)
    parts = dataclasses.replace(experiment, train=train, objective=MaskedLM(chunk=3), mesh=mesh)
    have = Reference(parts, [batch]).outcome
    worst = parallel_check.difference(have, on_one.outcome).worst
    # The optimizer makes a step of the noise that is the gradient of the keys' bias: 0.
    assert max(worst[part] for part in ("loss", "metrics", "gradients")) < parallel_check.TOLERANCE


def test_a_plan_has_the_teachers_memory(student):
    mesh = make_mesh(MeshConfig(data=1, fsdp=2))
    experiment = dataclasses.replace(student, mesh=MeshConfig(data=1, fsdp=2))
    alone = dataclasses.replace(experiment, teacher=type(student.teacher)())
    with jax.set_mesh(mesh):
        programs = [Program(each, mesh) for each in (experiment, alone)]
        batch = abstract_batch(experiment, mesh)
        sizes = [program.lower(batch).compile().memory_analysis().argument_size_in_bytes for program in programs]
    held = bytes_of(programs[0]._frozen.abstract)
    assert held >= 4 * TEACHER.num_params() / 2
    # The teacher's pooler and sentence head are no arguments: nothing reads them.
    assert 0.9 * held < sizes[0] - sizes[1] <= held


def test_what_compares_layers_is_refused_in_a_pipeline(student):
    teacher = dataclasses.replace(student.teacher, hidden=1.0)
    experiment = dataclasses.replace(student, teacher=teacher, mesh=MeshConfig(data=1, pipeline=2))
    with pytest.raises(UserError, match=r"compare layers, which a pipeline hides: make --mesh.pipeline 1"):
        Program(experiment, make_mesh(experiment.mesh))
