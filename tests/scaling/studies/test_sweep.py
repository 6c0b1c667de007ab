"""Sweeps: in order, several at a time, one failure alone, and on after a stop. The runs here only pretend to train."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import configs
from transformer.errors import Interrupted, UserError
from transformer.scaling.studies import slurm
from transformer.scaling.studies import study as studies
from transformer.scaling.studies import sweep as sweeps
from transformer.scaling.studies.study import Cell, Study

PRETENDS = """
import json, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
steps = json.loads((run / "experiment.json").read_text())["train"]["steps"]
with (run.parent.parent / "order.txt").open("a") as file:
    print("begin", run.name, file=file)
signal.signal(signal.SIGINT, lambda *_: sys.exit(75))
if run.name == "slow" and not (run / "again").exists():
    (run / "again").touch()
    time.sleep(60)
if run.name == "bad":
    print("some words", flush=True)
    sys.exit("error: it does not fit")
while run.name in ("left", "right") and (run.parent.parent / "order.txt").read_text().count("begin") < 2:
    time.sleep(0.05)
time.sleep(0.2)
rows = [{"step": steps, "nll": 2.0, "loss": 2.0, "tokens_per_second": 5.0}, {"step": steps, "eval_loss": 1.0 + steps}]
(run / "metrics.jsonl").write_text("".join(json.dumps(row) + chr(10) for row in rows))
with (run.parent.parent / "order.txt").open("a") as file:
    print("end", run.name, file=file)
"""


def cell(name, steps=3, **fields):
    return Cell(name, 1e12, 1000 + steps, 10 * steps, 1e12, steps, 0, **fields)


@pytest.fixture
def make(tmp_path):
    (tmp_path / "pretend.py").write_text(PRETENDS)

    def make(*cells):
        study = Study("gpt-scaling", "6N", "total", cells)
        base = configs.get("gpt-scaling")
        planned = {
            each.name: dataclasses.replace(base, train=dataclasses.replace(base.train, steps=each.steps))
            for each in cells
        }
        studies.write(study, tmp_path, planned)
        return study

    return make


def go(study, folder, jobs=1, **options):
    program = [sys.executable, str(folder / "pretend.py")]
    return sweeps.sweep(study, folder, program, shares=[None] * jobs, poll=0.05, **options)


def order(folder):
    return (folder / "order.txt").read_text().split("\n")[:-1]


def test_runs_in_order_and_once(make, tmp_path):
    study = make(cell("a", 3), cell("b", 4))
    assert [(one.state, one.outcome.loss) for one in go(study, tmp_path)] == [("ended", 4.0), ("ended", 5.0)]
    assert order(tmp_path) == ["begin a", "end a", "begin b", "end b"]
    go(study, tmp_path)
    assert len(order(tmp_path)) == 4
    table = studies.table(study, tmp_path)
    assert table.loss.tolist() == [4.0, 5.0]
    assert table.names == ("a", "b")


def test_several_at_a_time(make, tmp_path):
    go(make(cell("left"), cell("right")), tmp_path, jobs=2)
    assert sorted(order(tmp_path)[:2]) == ["begin left", "begin right"]


def test_a_failure_is_named_and_stays_alone(make, tmp_path):
    study = make(cell("bad"), cell("good"))
    bad, good = go(study, tmp_path)
    assert (bad.state, good.state) == ("failed", "ended")
    assert bad.reason == f"exit 1: it does not fit ({tmp_path}/logs/bad.log)"
    assert [one.state for one in go(study, tmp_path)] == ["failed", "ended"]  # it is tried again
    assert order(tmp_path).count("begin bad") == 2


def test_what_branches_from_a_failure_fails_with_it(make, tmp_path):
    study = make(cell("bad", 9), cell("branch", 3, trunk="bad", branch=2), cell("good"))
    states = {one.cell.name: (one.state, one.reason) for one in go(study, tmp_path, jobs=2)}
    assert states["branch"] == ("failed", "its trunk, bad, failed")
    assert states["good"][0] == "ended"


def test_a_branch_alone_needs_its_trunks_checkpoint(make, tmp_path):
    study = make(cell("a", 9), cell("branch", 3, trunk="a", branch=2), cell("good"))
    alone = dataclasses.replace(study, cells=study.cells[1:])
    states = {one.cell.name: (one.state, one.reason) for one in go(alone, tmp_path)}
    assert states["good"][0] == "ended"
    assert states["branch"] == ("failed", f"{tmp_path}/runs/a/checkpoints/2: no such checkpoint to go on from")


TEMPLATE = Path(__file__).parents[3] / "tools" / "launch" / "slurm.sbatch"


def test_slurm_gets_the_trunks_first(make, tmp_path, monkeypatch):
    """By a pretended sbatch, that keeps what it is told."""
    study = make(cell("a", 9), cell("branch", 3, trunk="a", branch=2), cell("done"), cell("b b"))
    go(dataclasses.replace(study, cells=study.cells[2:3]), tmp_path)
    waves = slurm.waves(study, tmp_path, ["python", "tools/scaling.py", "run", str(tmp_path)])
    first, second = (wave.script for wave in waves)
    assert "names=(a 'b b')" in first.read_text()
    assert "names=(branch)" in second.read_text()
    for script in (first, second, TEMPLATE):
        subprocess.run(["bash", "-n", str(script)], check=True)
    (tmp_path / "bin").mkdir()
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/told\necho "$(wc -l < {tmp_path}/told);cluster"\n')
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert slurm.submit(waves, TEMPLATE, 3) == ["1", "2"]
    trunks, branches = (tmp_path / "told").read_text().splitlines()
    assert "--array=0-1%3" in trunks
    assert branches.endswith(f"--dependency=afterany:1 {TEMPLATE} bash {second}")
    sbatch.write_text("#!/bin/bash\necho 'sbatch: error: no partition' >&2\nexit 1\n")
    with pytest.raises(UserError, match="sbatch: error: no partition"):
        slurm.submit(waves, TEMPLATE, None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="there is no sbatch here"):
        slurm.submit(waves, TEMPLATE, None)


def test_an_array_task_makes_its_run_and_is_put_back_when_it_was_stopped(make, tmp_path):
    """The batch script itself, as Slurm would run it, with a pretended srun."""
    study = make(cell("a"), cell("slow"))
    [wave] = slurm.waves(study, tmp_path, [sys.executable, str(tmp_path / "task.py")])
    (tmp_path / "task.py").write_text(
        "import pathlib, sys\n"
        f"pathlib.Path({str(tmp_path / 'asked')!r}).write_text(' '.join(sys.argv[1:]))\n"
        "print('done')\n"
        "sys.exit(0 if sys.argv[2] == 'a' else 75)\n"
    )
    (tmp_path / "bin").mkdir()
    for name, body in {
        "scontrol": f'echo "$@" > {tmp_path}/requeued',
        # As srun does, it ends with the code of a process that it killed, and says that of the first to leave.
        "srun": 'while [[ $1 == --* ]]; do shift; done; "$@"; code=$?; test $code = 0 && exit\n'
        'echo "srun: error: n1: task 0: Exited with exit code $code" >&2; exit 143',
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "1"}

    def task(number, **more):
        env = path | {"SLURM_ARRAY_TASK_ID": number} | more
        command = ["bash", str(TEMPLATE), "bash", str(wave.script)]
        return subprocess.run(command, env=env, check=False, capture_output=True, text=True)

    ended = task("0")
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended
    assert (tmp_path / "asked").read_text() == "--only a"
    assert not (tmp_path / "requeued").exists()
    assert "that is enough" in task("1", MAX_RESTARTS="2", SLURM_RESTART_COUNT="2").stderr
    assert not (tmp_path / "requeued").exists()
    assert task("1").returncode == 75
    assert (tmp_path / "asked").read_text() == "--only slow"
    assert (tmp_path / "requeued").read_text() == "requeue 7_1\n"


def test_a_signal_stops_and_the_same_call_goes_on(make, tmp_path):
    study = make(cell("slow"), cell("next"))

    def stop():
        while not (tmp_path / "runs" / "slow" / "again").exists():
            time.sleep(0.02)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(Interrupted, match="SIGINT: stopped. To go on: python tools/scaling.py run"):
        go(study, tmp_path)
    thread.join()
    assert order(tmp_path) == ["begin slow"]
    assert [one.state for one in go(study, tmp_path)] == ["ended", "ended"]


def test_a_loss_that_is_not_finite_is_seen(make, tmp_path):
    study = make(cell("a"))
    go(study, tmp_path)
    path = Path(tmp_path / "runs" / "a" / "metrics.jsonl")
    path.write_text(json.dumps({"step": 3, "eval_loss": None}) + "\n")
    assert studies.diverged(study, tmp_path) == ["a"]
    with pytest.raises(UserError, match="no run has ended yet"):
        studies.table(study, tmp_path)
