"""Sweeps as people make them: fields and values, one row a run, failures named, on after a stop. Most runs pretend."""

import csv
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import configs
import train
from tests.tool_calls import caller, refuser
from tools import sweep as tool
from transformer.sweeps import plan as plans
from transformer.sweeps import processes, runner
from transformer.training import experiment as experiments
from transformer.training.metrics import read_rows
from transformer.training.run import Run

ROOT = Path(__file__).parent.parent.parent
PRETENDS = """
import json, pathlib, sys
run = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
train = json.loads((run / "experiment.json").read_text())["train"]
with (run.parent.parent / "order.txt").open("a") as file:
    print(run.name, file=file)
if train["seed"] == 7 and not (run.parent.parent / "mended").exists():
    sys.exit("error: it does not fit")
rows = [
    {"step": 1, "nll": 3.0},
    {"step": train["steps"], "nll": 2.0, "step_seconds": 0.5, "tokens_per_second": 5.0},
    {"step": train["steps"], "eval_loss": 1.0 + train["seed"]},
]
(run / "metrics.jsonl").write_text("".join(json.dumps(row) + chr(10) for row in rows))
"""
SMALL = ("--preset", "gpt-text", "--train.seq-len", "32", "--train.batch-size", "4", "--train.steps", "5")


@pytest.fixture
def call(capsys):
    return caller(tool.main, capsys)


@pytest.fixture
def refused(call):
    return refuser(call)


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Runs pretend to train. Returns the names of those that were started."""
    (tmp_path / "pretend.py").write_text(PRETENDS)
    monkeypatch.setattr(processes, "program", lambda: [sys.executable, str(tmp_path / "pretend.py")])
    monkeypatch.setattr(runner, "run_cells", functools.partial(runner.run_cells, poll=0.05))
    return lambda: (tmp_path / "sweep" / "order.txt").read_text().split()


def table(folder):
    with (folder / "runs.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def product(*args):
    base = configs.get("gpt-text")
    vary = tuple(tuple(words) for words in args)
    return tool.product(tool.Command(sweep="", experiment=base, vary=vary), [])


def test_all_combinations_as_trains_flags_would_make_them():
    fields, combinations = product(
        ("optimizer.learning-rate", "1e-3", "0.003"), ("train.eval-batches", "None", "4"), ("train.skip-samples", "1 2")
    )
    assert fields == ["optimizer.learning_rate", "train.eval_batches", "train.skip_samples"]
    assert [list(values.values()) for values, _ in combinations] == [
        [rate, batches, [1, 2]] for rate in (0.001, 0.003) for batches in (None, 4)
    ]
    for values, experiment in combinations:
        flags = ["--optimizer.learning-rate", str(values["optimizer.learning_rate"]), "--train.skip-samples", "1", "2"]
        flags += ["--train.eval-batches", str(values["train.eval_batches"])]
        assert experiment == train.parse(["gpt-text", *flags]).experiment


def test_a_value_that_fits_only_with_another_is_tried_with_it():
    """Rules hold for a combination, not for each value over the preset."""
    _, combinations = product(("model.width", "90"), ("model.num-heads", "3"))
    assert combinations[0][1].model.width == 90


values = st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(), st.lists(st.text()))


@settings(max_examples=40, deadline=None)
@example(["", []])
@example(["a-b", ["a", "b"]])
@given(st.lists(values, min_size=2, max_size=5, unique_by=str))
def test_names_are_files_and_differ(several):
    names = [plans.name_of({"data.path": value, "train.seed": 0}) for value in several]
    assert len(set(names)) == len(names)
    for name in names:
        assert not set(name) & set("/\0 '\"$")
        assert len(name.encode()) < 200


def test_a_name_says_the_fields_last_word_or_all_of_it():
    assert plans.name_of({"optimizer.learning_rate": 1e-3, "train.seed": 2}) == "learning_rate=0.001,seed=2"
    assert plans.name_of({"model.dropout": 0.1, "init.dropout": 0}) == "model.dropout=0.1,init.dropout=0"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--vary", "optimizer.learning-rat", "1e-3"), "--optimizer.learning-rate"),
        (("--vary", "train.seed", "0", "x"), "--vary train.seed x: "),
        (("--vary", "train.batch-sizes", "8"), "--train.batch-size"),
        (("--vary", "train.batch-size", "8", "0"), "--train.batch-size is 0: it must be"),
        (("--vary", "jobs", "1", "2"), "--jobs"),
        (("--vary", "train.seed"), "give a field and its values"),
        (("--vary", "train.seed", "0", "1", "0"), "seed=0 is given 2 times"),
        (("--vary", "train.seed", "0", "--vary", "train.seed", "1"), "the field is given twice"),
        (("--vary", "train.steps", "3", "--train.steps=4"), "the field is given twice"),
        (("--vary", "train.seed", "0", "--jobs", "0"), "--jobs 0"),
        (("--vary", "train.seed", "0", "--only", "seed=1"), "the sweep has no run seed=1: did you mean seed=0?"),
        (("--vary", "train.seed", "0", "--preset", "gtp-text"), "gpt-text"),
        ((), "give --vary FIELD VALUE VALUE to begin a sweep"),
    ],
)
def test_one_line_for_a_mistake_before_anything_is_written(args, message, refused, tmp_path):
    assert message in refused(tmp_path / "sweep", *args)
    assert not (tmp_path / "sweep").exists()


def test_a_row_a_run_a_failure_named_and_tried_again_when_asked(pretend, call, tmp_path):
    folder = tmp_path / "sweep"
    vary = ("--vary", "optimizer.learning-rate", "1e-3", "1e-2", "--vary", "train.seed", "0", "7")
    code, out, err = call(folder, *SMALL, *vary, "--jobs", 2)
    assert code == 1
    assert "error: 2 of 4 runs failed, --retry tries them again: learning_rate=0.001,seed=7: exit 1: it does not" in err
    assert out.count("failed") == 2
    assert out.splitlines()[-1] == f"{folder}/runs.csv, {folder}/runs.png"
    assert (folder / "runs.png").read_bytes().startswith(b"\x89PNG")
    rows = table(folder)
    assert [(row["state"], row["eval_loss"]) for row in rows.values()] == [("ended", "1.0"), ("failed", "")] * 2
    good = rows["learning_rate=0.01,seed=0"]
    experiment = experiments.read(Run(folder / "runs" / good["name"]).experiment_path)
    assert (good["optimizer.learning_rate"], good["train.seed"], good["steps"]) == ("0.01", "0", "5")
    assert (good["tokens"], good["train_loss"], good["seconds"]) == (str(5 * 4 * 32), "2.0", "2.5")
    assert float(good["flops"]) == pytest.approx(5 * 4 * experiment.model.flops_per_example(32, 0))

    # The same command leaves alone what has ended or failed; --retry tries failures again, by the folder alone.
    before = pretend()
    assert call(folder, *SMALL, *vary)[0] == 1
    assert pretend() == before
    (folder / "mended").touch()
    assert call(folder, "--retry")[0] == 0
    assert sorted(pretend()[len(before) :]) == ["learning_rate=0.001,seed=7", "learning_rate=0.01,seed=7"]
    assert {row["state"] for row in table(folder).values()} == {"ended"}


@pytest.mark.exhaustive
def test_more_values_add_runs_and_another_sweep_is_refused(pretend, call, refused, tmp_path):
    folder = tmp_path / "sweep"
    assert call(folder, *SMALL, "--vary", "train.seed", "0")[0] == 0
    assert call(folder, *SMALL, "--vary", "train.seed", "1", "2", "--only", "seed=2")[0] == 0
    assert pretend() == ["seed=0", "seed=2"]
    assert [row["state"] for row in table(folder).values()] == ["ended", "waits", "ended"]
    for args, message in (
        ((*SMALL, "--vary", "train.seed", "0", "--train.log-every", "3"), "train.log_every was 10, now 3"),
        ((*SMALL, "--vary", "train.seed", "9", "--train.log-every", "3"), "train.log_every was 10, now 3"),
        ((*SMALL, "--vary", "optimizer.learning-rate", "1"), "another sweep, of train.seed, not of optimizer.learn"),
        (("--train.steps", "3"), "are given without --vary"),
        ((), None),
    ):
        record = (folder / "sweep.json").read_text()
        if message:
            assert message in refused(folder, *args)
            assert (folder / "sweep.json").read_text() == record
        else:
            assert call(folder)[0] == 0
    assert pretend() == ["seed=0", "seed=2", "seed=1"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    assert "holds no sweep" in refused(tmp_path / "other", *SMALL, "--vary", "train.seed", "0")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"train.seed": 0', "", "it is of train.seed, and its run seed=0 has values of nothing"),
        ('"fields"', '"field"', "sweep.json: not a sweep"),
        ("{", "[", "sweep.json: not a sweep"),
    ],
)
def test_a_record_that_was_damaged_is_a_line(pretend, call, refused, tmp_path, old, new, message):
    call(str(tmp_path / "sweep"), *SMALL, "--vary", "train.seed", "0")
    path = tmp_path / "sweep" / "sweep.json"
    record = json.dumps(json.loads(path.read_text()))
    assert old in record
    path.write_text(record.replace(old, new, 1))
    assert message in refused(str(tmp_path / "sweep"))


def test_a_run_that_diverged_has_ended_and_is_called_so(pretend, call, tmp_path):
    folder = tmp_path / "sweep"
    call(folder, *SMALL, "--vary", "train.seed", "0")
    (folder / "runs" / "seed=0" / "metrics.jsonl").write_text(json.dumps({"step": 5, "eval_loss": None}) + "\n")
    code, out, _ = call(folder)
    assert code == 0
    assert "diverged" in out
    assert table(folder)["seed=0"]["eval_loss"] == "nan"


def test_slurm_gets_what_has_neither_ended_nor_failed(pretend, call, tmp_path, monkeypatch):
    folder = tmp_path / "sweep"
    call(folder, *SMALL, "--vary", "train.seed", "0", "7")
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text("#!/bin/bash\necho 12\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    code, out, _ = call(folder, *SMALL, "--vary", "train.seed", "1", "7", "2", "--slurm", "--jobs", 100)
    assert (code, out) == (0, f"job 12: {folder}/slurm/0.sh\n")
    script = (folder / "slurm" / "0.sh").read_text()
    assert "seed=1 seed=2" in script
    assert "seed=7" not in script
    assert f"tools/sweep.py {folder}" in script
    assert call(folder, "--slurm", "--only", "seed=0")[1] == f"nothing is left to run: python tools/sweep.py {folder}\n"


@pytest.mark.exhaustive
def test_a_real_sweep_goes_on_after_ctrl_c_and_after_a_kill(tmp_path):
    """Two rates, one of which diverges, by two seeds; the good ones end as if nobody had stopped them."""
    text = "".join(f"line {n}: to be, or not to be, that is question {n % 7}\n" for n in range(400))
    (tmp_path / "plays.txt").write_text(text)
    flags = [
        *("--data.path", str(tmp_path / "plays.txt"), "--data.cache-dir", str(tmp_path / "cache")),
        *("--data.tokenizer", "bytes", "--model.width", "16", "--model.num-layers", "1", "--model.num-heads", "2"),
        *("--model.vocab-size", "400", "--model.context-length", "32", "--train.seq-len", "32"),
        *("--train.batch-size", "8", "--train.steps", "600", "--train.log-every", "2", "--train.eval-batches", "2"),
        *("--train.max-skipped", "3", "--checkpoint.every", "600"),
    ]
    folder = tmp_path / "sweep"
    line = [sys.executable, str(ROOT / "tools" / "sweep.py"), str(folder), "--preset", "gpt-text", *flags]
    line += ["--vary", "optimizer.learning-rate", "1e-2", "1e30", "--vary", "train.seed", "0", "1", "--jobs", "2"]
    good = [f"learning_rate=0.01,seed={seed}" for seed in (0, 1)]
    steps = dict.fromkeys(good, 0)

    def has_gone_on():
        """Whether a good run has made updates since the last stop."""
        paths = {name: folder / "runs" / name / "metrics.jsonl" for name in good}
        rows = {name: read_rows(path) for name, path in paths.items() if path.exists()}
        return any(each and each[-1]["step"] > steps[name] for name, each in rows.items())

    for number, code in ((signal.SIGINT, 75), (signal.SIGKILL, -signal.SIGKILL)):
        with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            wait_for(has_gone_on)
            process.send_signal(number)
            _, said = process.communicate(timeout=120)
            assert process.returncode == code, said
        if number == signal.SIGINT:
            assert f"To go on: python tools/sweep.py {folder}" in said
        # What a kill leaves behind saves and ends by itself.
        wait_for(lambda: not any((folder / "runs" / name / "lock.json").exists() for name in good))
        saved = {name: newest(folder / "runs" / name / "checkpoints") for name in good}
        assert any(steps[name] < saved[name] < 600 for name in good)
        steps = saved

    ended = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "2 of 4 runs failed" in ended.stderr
    for seed in (0, 1):
        assert f"learning_rate=1e+30,seed={seed}: exit 2: the loss or a gradient was not finite in 3" in ended.stderr
    rows = table(folder)
    assert [rows[name]["state"] for name in rows] == ["ended", "ended", "failed", "failed"]
    assert (folder / "runs.png").exists()
    whole = tmp_path / "whole"
    args = ["gpt-text", *flags, "--optimizer.learning-rate", "1e-2", "--train.seed", "1", "--workdir", str(whole)]
    cores = processes.shares(2, cpu=True)[1]
    assert processes.started([*processes.program(), *args], tmp_path / "log", cores).wait(timeout=300) == 0
    ends = [row for row in read_rows(Run(whole).metrics) if row["step"] == 600]
    assert float(rows[good[1]]["eval_loss"]) == ends[-1]["eval_loss"]


def newest(checkpoints):
    return max((int(path.name) for path in checkpoints.glob("[0-9]*")), default=0)


def wait_for(condition):
    ends = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)
