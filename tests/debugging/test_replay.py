"""Spiking steps written down, run again to the bit, and their samples left out; over whole runs on a tiny text."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from tools import replay as tool
from tools.crash import WORDS
from transformer import command
from transformer.checkpoint import CheckpointConfig
from transformer.debugging import capsule
from transformer.debugging.capsule import Capsules
from transformer.debugging.replay import replay
from transformer.errors import UserError
from transformer.training import experiment as experiments
from transformer.training import loop
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.metrics import read_rows
from transformer.training.run import Run
from transformer.training.session import Session


@pytest.fixture(scope="module")
def experiment(experiment) -> Experiment:
    """Without evaluations, and with all checkpoints."""
    train = dataclasses.replace(experiment.train, eval_every=100)
    return dataclasses.replace(experiment, train=train, checkpoint=CheckpointConfig(every=4, keep=4))


def rows(folder):
    return {row["step"]: row for row in read_rows(epath.Path(folder) / "metrics.jsonl") if "grad_norm" in row}


def quiet(line):
    pass


def strictly(path):
    """The file, which must be JSON without NaN."""

    def refuse(constant):
        raise AssertionError(f"{constant} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def usual(experiment, tmp_path_factory):
    """A run without trouble."""
    folder = tmp_path_factory.mktemp("usual") / "run"
    loop.train(experiment, folder, report=quiet)
    return folder


@pytest.fixture
def hurt(monkeypatch):
    """Every run starts with a weight of the second layer that is infinite."""
    initial_state = Session.initial_state

    def hurting(*args):
        state = initial_state(*args)
        params = jax.device_get(state.params)
        kernel = params["backbone"]["stack"]["layers"]["mlp"]["down"]["kernel"].copy()
        kernel[1, 3, 5] = np.inf
        params["backbone"]["stack"]["layers"]["mlp"]["down"]["kernel"] = kernel
        return dataclasses.replace(
            state, params=jax.device_put(params, jax.tree.map(lambda x: x.sharding, state.params))
        )

    monkeypatch.setattr(Session, "initial_state", hurting)
    monkeypatch.setattr(command, "start_jax", lambda **_: None)


def test_a_step_that_is_not_finite_leaves_a_capsule_and_is_replayed(experiment, hurt, tmp_path, capsys):
    folder, said = tmp_path / "run", []
    with pytest.raises(UserError, match="not finite in 10 updates in a row"):
        loop.train(experiment, folder, report=said.append)
    [path] = (folder / "spikes").iterdir()
    assert path.name == "1.json"
    assert f"To look at it: python tools/replay.py {folder} 1" in said[-1]
    record = strictly(path)
    assert (record["step"], record["kind"], record["loss"]) == (1, "loss not finite", "nan")
    assert (record["bound"], record["before"], record["checkpoint"]) == (None, [], None)
    assert record["key"] == jax.random.key_data(jax.random.fold_in(jax.random.key(0), 0)).tolist()
    assert [row["place"] for row in record["samples"]] == list(range(8))
    first, second = record["parameter_norms"]["backbone/stack/layers/mlp/down/kernel"]
    assert (second, 0 < first < 10) == ("inf", True)
    assert "nan" in str(record["gradient_norms"])
    assert experiments.from_dict(record["experiment"], "it") == experiment

    before = sorted(folder.rglob("*"))
    tool.main([str(folder)])
    printed = capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before  # nothing is written
    assert "step 1, with the state that the run had before it" in printed
    assert "loss nan, gradient norm nan (the same, bit for bit)" in printed
    place = "layer 1 of backbone/stack/layers/mlp/down"
    assert f"arises in the parameters, before the step: {place}/kernel (1 of 1,024 values)" in printed
    marked = [line.split() for line in printed.splitlines() if line.startswith("> ")]
    assert [line[1:3] for line in marked[:2]] == [
        ["backbone/stack/layers/mlp/down/kernel", "1"],
        ["backbone/stack/layers/mlp/down", "1"],
    ]

    # The capsule knows the text by its fingerprint.
    path.write_text(json.dumps(record | {"corpus": "another"}))
    with pytest.raises(UserError, match="is not the text that it was when step"):
        replay(Run(folder), None, alone=True, report=quiet)
    path.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        replay(Run(folder), None, alone=True, report=quiet)


def test_every_step_can_be_replayed_and_a_walk_gives_the_runs_own_numbers(usual):
    said = []
    found = replay(Run(usual), 6, alone=False, report=said.append)
    assert f"restoring {usual}/checkpoints/4" in said
    assert (found.began, found.capsule) == (5, None)
    recorded = rows(usual)[6]
    for name in ("loss", "grad_norm", "nll", "accuracy"):
        assert found.metrics[name] == recorded[name]
    assert found.examination.first_bad() is None
    [loss] = [entry.largest for entry in found.examination.loss if entry.name == "loss"]
    assert loss == pytest.approx(recorded["loss"], rel=1e-6)
    # The rows' losses are without dropout, so near what the step saw.
    losses = [row.loss for row in found.rows]
    assert np.mean(losses) == pytest.approx(recorded["loss"], rel=0.02)
    assert losses == sorted(losses, reverse=True)
    assert all(set(text.split()[1:-1]) <= set(WORDS) for row in found.rows for text in row.texts)

    alone = replay(Run(usual), 6, alone=True, report=quiet)
    assert alone.began == 4
    assert alone.metrics["loss"] != recorded["loss"]
    assert alone.metrics["loss"] == pytest.approx(recorded["loss"], rel=0.1)
    assert "the weights of step 4: not the state that the run had" in "\n".join(tool.headline(alone))

    table = list(tool.tables(found.examination))
    assert "every value is finite" in table
    for words in ("the largest of each module's outputs", "the largest parameters", "the largest gradients"):
        assert words in table
    shown = list(tool.rows(found, show=True))
    assert {row.texts[0].splitlines()[0] for row in found.rows} <= {line.removeprefix("    ") for line in shown}


@pytest.mark.parametrize(
    ("step", "words"),
    [("13", "step 13: the run has steps 1 to 12"), ("0", "the first is 1"), (None, "no step of this run spiked")],
)
def test_a_step_that_is_not_there_is_refused(step, words, usual, capsys, monkeypatch):
    monkeypatch.setattr(command, "start_jax", lambda **_: None)
    args = [str(usual), *([step] if step else [])]
    assert command.run(lambda: tool.main(args)) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert words in line


@pytest.fixture(scope="module")
def watched(experiment, tmp_path_factory):
    """A function from the lines said to `Capsules` of a new run, and a state to look at."""
    session = Session(experiment)

    def make(report):
        run = Run(tmp_path_factory.mktemp("watched"))
        return run, Capsules(run, session, report)

    with jax.set_mesh(session.mesh):
        return make, session.initial_state()


def test_a_loss_spike_is_written_down(watched, experiment):
    make, state = watched
    said = []
    run, capsules = make(said.append)
    for saved in ("20", "40", "60"):
        (run.checkpoints / saved).mkdir(parents=True)
    losses = [3 + 0.01 * (step % 5) for step in range(40)] + [9.0, 9.5, 3.0]
    looked = [capsules.check(step, {"loss": x, "grad_norm": 2.0}, state) for step, x in enumerate(losses, start=1)]
    assert looked == [False] * 40 + [True, False, False]
    [line] = said
    assert "step 41: loss spike, loss 9 (usual: up to 3.2" in line
    record = strictly(run.spikes / "41.json")
    assert record["checkpoint"] == "checkpoints/40"
    assert [before["step"] for before in record["before"]] == list(range(33, 41))
    # Norms against NumPy's, of the same parameters.
    kernel = np.asarray(state.params["backbone"]["stack"]["layers"]["attention"]["query"]["kernel"])
    expected = [np.linalg.norm(layer) for layer in kernel]
    assert record["parameter_norms"]["backbone/stack/layers/attention/query/kernel"] == pytest.approx(
        expected, rel=1e-5
    )
    assert record["gradient_norms"]["backbone/token_embedding/embedding"] > 0


def test_a_full_disk_is_a_line_and_capsules_have_an_end(watched, monkeypatch):
    make, state = watched
    said = []
    run, capsules = make(said.append)

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    bad, good = {"loss": np.nan, "grad_norm": np.nan}, {"loss": 3.0, "grad_norm": 1.0}
    with monkeypatch.context() as patch:
        patch.setattr(capsule, "write_atomically", full)
        assert capsules.check(1, bad, state)
    assert "could not be written down" in said[0]
    assert "No space left on device" in said[0]
    monkeypatch.setattr(capsule, "MOST", 3)
    for step in range(2, 20):
        capsules.check(step, good if step % 2 == 0 else bad, state)
    assert sorted(path.name for path in run.spikes.iterdir()) == ["3.json", "5.json"]
    assert len(said) == 4
    assert "step 7: loss not finite; 3 such steps are written down, this and later ones are not" in said[3]


@pytest.mark.exhaustive
def test_samples_are_left_out_of_a_run_that_goes_on(experiment, usual, tmp_path):
    folder, said = tmp_path / "run", []
    shutil.copytree(usual, folder)
    shutil.rmtree(folder / "checkpoints" / "12")
    train = dataclasses.replace(experiment.train, skip_samples=(2, 8 * 9 + 3))  # of steps 1 and 10
    loop.train(dataclasses.replace(experiment, train=train), folder, report=said.append)
    assert "train.skip_samples is [2, 75] from here on (it was [])" in said
    assert "1 of --train.skip-samples came before step 8: what was learnt from them stays" in said
    assert strictly(folder / "experiment.json")["train"]["skip_samples"] == [2, 75]
    before, after = ([row["loss"] for row in rows(of).values()] for of in (usual, folder))
    assert before[:9] == after[:9]
    assert before[9] != after[9]
    found = replay(Run(folder), 10, alone=False, report=quiet)
    assert found.metrics["loss"] == after[9]
    assert [(row.place, row.loss) for row in found.rows if row.skipped] == [(75, None)]


def test_the_loss_is_that_of_the_other_rows(experiment):
    session = Session(experiment)
    train = dataclasses.replace(experiment.train, skip_samples=(8 * 3 + 1, 8 * 3 + 6))
    skipping = dataclasses.replace(experiment, train=train)
    whole, without = (one.training_rows[3] for one in (session, Session(skipping, dataset=session.dataset)))
    others = [0, 2, 3, 4, 5, 7]
    with jax.set_mesh(session.mesh):
        params = session.program.init().params
        found = session.program.evaluate(params, without).sums
        expected = session.program.evaluate(params, jax.tree.map(lambda x: x[np.array(others)], whole)).sums
    assert found.weight == expected.weight == whole["weights"][others].sum()
    for name, value in expected.metrics.items():
        assert float(found.metrics[name]) == pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize("place", [-1, 48])
def test_a_sample_that_the_run_never_reads_is_refused(place):
    with pytest.raises(UserError, match=f"skip_samples {place}: the 6 steps of 8 read samples 0 to 47"):
        TrainConfig(steps=6, batch_size=8, skip_samples=(3, place))
