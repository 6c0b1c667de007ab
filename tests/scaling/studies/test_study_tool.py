"""A study from its plan to its prediction, as people make one: tools/scaling.py plan, run, fit, predict."""

import csv
import json

import numpy as np
import pytest

import configs
from tests.tool_calls import caller
from tools import scaling as tool
from transformer import command
from transformer.planning.chips import topology_of
from transformer.planning.prediction import predict
from transformer.planning.rates import rates_for
from transformer.scaling.laws import synthetic
from transformer.scaling.laws.coverage import TRUTH
from transformer.scaling.studies import probe
from transformer.scaling.studies import study as studies
from transformer.sweeps import cells


@pytest.fixture
def call(capsys):
    return caller(tool.main, capsys)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies") / "study"
    args = ["plan", str(folder), "--preset", "gpt-scaling", "--no-probe", "--sizes", "5", "--span", "3"]
    args += ["--budgets", "1e13", "1e14", "1e15", "1e16", "--train.seq-len", "64"]
    assert command.run(lambda: tool.main(args)) == 0
    return folder


def finish(folder, but=()):
    """Gives every run the loss of a known law, and one of noise."""
    study = studies.read(folder)
    rng = np.random.default_rng(0)
    for cell in study.cells:
        table = synthetic.study(TRUTH, cell.params, cell.tokens)
        loss = float(table.loss[0] * np.exp(0.001 * rng.standard_normal()))
        run = cells.run_of(folder, cell.name)
        run.folder.mkdir(parents=True, exist_ok=True)
        ended = None if cell.name in but else loss
        run.metrics.write_text(json.dumps({"step": cell.steps, "eval_loss": ended}) + "\n")
    return study


def test_a_plan_says_what_it_costs_and_tells(tmp_path, call):
    args = ["--no-probe", "--sizes", 4, "--span", 3, "--budgets", "1e13", "1e14", "1e15"]
    code, out, _ = call("plan", tmp_path / "new", *args)
    assert code == 0
    assert "gpt-scaling: 12 runs; C by 6N, N total" in out
    assert out.count("held out\n") == 4
    assert "saved: shorter runs are cooled down from longer ones" in out
    assert "95 % of such studies would be" in out
    assert f"written: {tmp_path / 'new'}; python tools/scaling.py run" in out
    code, out, err = call("plan", tmp_path / "new", *args)
    assert (code, out) == (2, "")
    assert "give a new folder" in err


def test_flags_reach_every_experiment(planned):
    study = studies.read(planned)
    for cell in study.cells:
        record = json.loads(cells.experiment_path(planned, cell).read_text())
        assert record["train"]["seq_len"] == 64


def test_fit_and_predict(planned, call):
    study = finish(planned)
    code, out, _ = call("fit", planned, "--bootstrap", 60)
    assert code == 0
    assert "chinchilla: 15 runs" in out
    assert "isoflop: 15 runs" in out
    section = out.split("held out, chinchilla:")[1].split("\n\n")[0]
    held = [cell.name for cell in study.cells if cell.held_out]
    assert len(held) == 5
    assert all(name in section for name in held)
    assert section.count("outside") <= 1
    best = dict(line.split()[1:3] for line in out.split("the best of a held-out budget")[1].splitlines()[2:7])
    assert list(best) == ["measured", "chinchilla", "isoflop", "envelope", "kaplan"]
    for by in ("measured", "chinchilla", "isoflop"):
        assert float(best[by]) == pytest.approx(TRUTH.optimum(1e16).params, rel=0.25)
    with (planned / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows} == {cell.name for cell in study.cells}
    record = json.loads((planned / "law.json").read_text())
    assert record["table"]["convention"] == "6N, N total"
    code, out, _ = call("predict", planned, "--flops", "1e17")
    assert code == 0
    assert "chinchilla, C 1e+17" in out
    # The rows of a study are a table as well as anybody's.
    code, out, _ = call(
        "fit", "--table", planned / "runs.csv", "--tokens", "tokens", "--law", "isoflop", "--bootstrap", 0
    )
    assert code == 0


def test_a_run_that_diverged_is_named_and_left_out(planned, call):
    name = next(cell.name for cell in studies.read(planned).cells if not cell.held_out)
    finish(planned, but=(name,))
    code, out, _ = call("fit", planned, "--bootstrap", 0, "--law", "chinchilla")
    assert code == 0
    assert "chinchilla: 14 runs" in out
    assert f"left out, for their loss was not finite: {name}" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("run", "nowhere"), "plan a study first"),
        (("fit", "nowhere"), "plan a study first"),
        (("fit",), "the folder of a study, or --pairs"),
        (("fit", "x", "--table", "y"), "the folder of a study, or --pairs"),
        (("plan", "new", "--preset", "gtp-scaling"), "gpt-scaling"),
        (("plan", "new", "--budgets", "1e12", "--no-probe"), "--hold-out 1"),
        (("plan", "new", "--budgetz", "1e12"), "--budgets"),
        (("plan",), "give a new folder"),
    ],
)
def test_one_line_for_a_mistake(args, message, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*args)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "new").exists()


def test_an_unknown_run_is_refused(planned, call):
    code, _, err = call("run", planned, "--only", "C1-N1")
    assert code == 2
    assert "the study has no run C1-N1" in err


def test_time_on_chips_that_are_not_here_is_the_planners(planned, tmp_path, call):
    cells_of = studies.read(planned).cells
    experiment = configs.get("gpt-scaling")
    experiments = {cell.name: experiment for cell in cells_of}
    seconds = probe.planned_seconds_per_step(cells_of, experiments, "h100:1")
    assert seconds.keys() == {cell.params for cell in cells_of}
    topology = topology_of("h100:1")
    expected = predict(experiment, topology, rates_for(topology, "float32")).time.total
    assert set(seconds.values()) == {expected}
    args = ["--preset", "gpt-scaling", "--sizes", 4, "--span", 3, "--budgets", "1e13", "1e14", "1e15"]
    code, out, err = call("plan", tmp_path / "other", *args, "--chips", "h101:1")
    assert (code, out) == (2, "")
    assert "chips: a100" in err
