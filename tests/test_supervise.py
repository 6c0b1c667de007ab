"""The supervisor: what it starts again and what not, when it gives up, and what it does with signals."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.processes import ROOT
from tests.tool_calls import caller, refuser
from tools.launch import supervise
from tools.launch.supervise import Limits, Reached, RunFolder

AT_ONCE = Limits(backoff=0.0)
# The supervisor itself has no JAX, which warns of any fork in the process of the tests.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork")


def supervised(folder, script, limits=AT_ONCE):
    """Returns the exit code of a supervised shell script, the times it was started, and what the supervisor said."""
    lines, starts = [], folder / "starts"
    args = ["sh", "-c", f'echo >> "{starts}"; n=$(wc -l < "{starts}"); cd "{folder}"; {script}']
    code = supervise.supervise(args, RunFolder(str(folder)), limits, lines.append)
    return code, len(starts.read_text().splitlines()), lines


@pytest.mark.parametrize("code", [0, 2, 3, 126, 127])
def test_what_is_done_or_wrong_is_not_started_again(code, tmp_path):
    assert supervised(tmp_path, f"exit {code}") == (code, 1, [])


@pytest.mark.parametrize(
    ("ending", "cause"),
    [
        ("exit 1", "exit code 1"),
        ("exit 75", "exit code 75"),
        ("exit 124", "exit code 124"),
        ("exit 137", "killed by SIGKILL"),
        ("kill -9 $$", "killed by SIGKILL"),
    ],
)
def test_what_can_go_on_is_started_again(ending, cause, tmp_path):
    code, starts, lines = supervised(tmp_path, f"test $n -gt 1 || {ending}")
    assert (code, starts) == (0, 2)
    assert lines == [f"{cause}, at step 0 (the newest checkpoint: none); restart 1 in 0 s"]


def test_three_starts_that_end_at_the_same_step_are_a_crash_loop(tmp_path):
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    (tmp_path / "failure.json").write_text(json.dumps({"message": "an older failure"}))
    logs = """echo '{"step": 7}' > metrics.jsonl; printf '{"step": 8' >> metrics.jsonl"""
    failure = {"message": "the\n loss", "process": 1, "host": "b", "phase": "step", "exit_code": 1}
    (tmp_path / "new.json").write_text(json.dumps(failure))
    code, starts, lines = supervised(tmp_path, f"{logs}; test $n -lt 3 || mv new.json failure.json; exit 1")
    assert (code, starts) == (1, 3)
    assert lines[0] == "exit code 1, at step 7 (the newest checkpoint: 4); restart 1 in 0 s"
    assert lines[2:] == [
        "gave up: 3 starts in a row got no further than step 7 (the newest checkpoint: 4): the loss (process 1 on b in "
        "step)"
    ]


@pytest.mark.exhaustive
def test_a_run_that_gets_on_is_started_again_and_again(tmp_path):
    steps = """echo "{\\"step\\": $n}" >> metrics.jsonl; test $n -gt 6 || exit 1"""
    assert supervised(tmp_path, steps)[:2] == (0, 7)
    saves = "mkdir -p checkpoints/$n checkpoints/99.tmp-1; test $n -gt 13 || exit 75"
    assert supervised(tmp_path, saves)[:2] == (0, 14)


def test_the_most_restarts(tmp_path):
    code, starts, lines = supervised(tmp_path, "kill -ABRT $$", Limits(restarts=1, backoff=0.0))
    assert (code, starts) == (-signal.SIGABRT, 2)
    assert lines[1:] == ["gave up after 1 restarts, at step 0 (the newest checkpoint: none): killed by SIGABRT"]


def test_the_wait_doubles_up_to_its_limit_and_is_never_the_same():
    limits = Limits(backoff=4.0, max_backoff=60.0)
    for unsaved, seconds in enumerate([4, 8, 16, 32, 60, 60]):
        delays = {limits.delay(unsaved) for _ in range(50)}
        assert all(0.75 * seconds <= delay <= 1.25 * seconds for delay in delays)
        assert len(delays) > 1
    assert limits.delay(10**6) <= 75.0


def test_a_run_in_an_object_store(store):
    for step, complete in ((4, True), (6, False)):
        folder = store / "run" / "checkpoints" / str(step)
        folder.mkdir(parents=True)
        (folder / ("commit_success.txt" if complete else "part")).touch()
    assert RunFolder("gs://bucket/run").reached() == Reached(saved=4)
    assert RunFolder("gs://bucket/none").reached() == Reached()


@pytest.fixture
def refused(capsys):
    return refuser(caller(supervise.main, capsys))


def test_bad_command_lines_are_one_line(refused, tmp_path):
    assert "no command: " in refused("--run", tmp_path)
    assert "give the command a --workdir, or --run FOLDER" in refused("--", "true")
    assert "unrecognized arguments: --max-restart 3" in refused("--max-restart", 3, "--", "true")
    assert "--backoff is -1: it must be at least 0" in refused("--backoff", -1, "--", "true", "--workdir", tmp_path)
    assert "--max-backoff is nan: it must be" in refused("--max-backoff", "nan", "--", "true", f"--workdir={tmp_path}")
    assert "nothing cannot be started: No such file" in refused("--", "./nothing", "--workdir", tmp_path)


def started(*args, **options):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools/launch/supervise.py"), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **options,
    )


def test_a_signal_is_passed_on_once_and_nothing_is_started_after_it(tmp_path):
    script = "trap 'echo TERM' TERM; trap 'echo INT' INT; echo ready; for i in 1 2 3 4 5 6; do sleep 0.1; done; exit 75"
    with started("--run", tmp_path, "--", "sh", "-c", script) as process:
        assert process.stdout.readline() == "ready\n"
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            process.send_signal(number)
            time.sleep(0.05)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (75, "TERM\n", "")


def test_a_signal_ends_the_wait_for_a_restart(tmp_path):
    with started("--backoff", 600, "--run", tmp_path, "--", "sh", "-c", "kill -9 $$") as process:
        assert "killed by SIGKILL" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGKILL


def test_it_starts_without_jax():
    program = "import sys; from tools.launch import supervise; print({'jax', 'etils', 'tyro'} & {*sys.modules})"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert said.stdout == "set()\n"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell no process that its parent died")
def test_a_killed_supervisor_takes_the_process_along(tmp_path):
    script = "trap 'echo saved; exit' TERM; echo ready; for i in $(seq 100); do sleep 0.1; done"
    with started("--run", tmp_path, "--", "sh", "-c", script) as process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.readline() == "saved\n"
