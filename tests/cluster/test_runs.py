"""Real trainings of two processes, one of which sees what the other does not: both end with the same line and code."""

import json
import re
import signal
import time

import pytest

from tests import processes
from transformer.signals import PAIR

SCENES = str(processes.ROOT / "tests" / "cluster" / "scenes.py")
GONE = ": it was killed or it crashed; the same command goes on from the newest checkpoint"


def outcomes(folder, *scenes):
    """Returns scene -> how it ended, by process; both end orderly."""
    both = processes.run([SCENES, str(folder), *scenes], 2, timeout=240)
    assert [one.code for one in both] == [0, 0], both
    found = [dict(map(json.loads, filter(lambda line: line.startswith('["'), one.out.splitlines()))) for one in both]
    return {scene: [own[scene] for own in found] for scene in scenes}


def test_what_one_sees_before_it_trains_holds_for_both(tmp_path):
    found = outcomes(tmp_path, "data", "other_data", "flags", "another_folder", "full_folder")
    assert "07.txt" in found["data"][0]
    other_data = re.compile(
        r"process 1 of 2 on HOST has another corpus than process 0 on HOST: the hash of source 1 is (\w+), not "
        r"(?!\1)\w+, the hash of all records is (\w+), not (?!\2)\w+; all processes of a job must have the same corpus"
    )
    assert other_data.fullmatch(found["other_data"][0])
    assert found["flags"][0] == (
        "process 1 of 2 on HOST was started with other flags than process 0 on HOST: train.seed is 1, not 0; all "
        "processes of a job must have the same flags"
    )
    [line] = set(found["another_folder"])
    assert line.endswith("own-1 is not the same folder on HOST and on HOST: --workdir must name one that all machines "
                         "of a job share")  # fmt: skip
    assert found["full_folder"][0].startswith(f"{tmp_path / 'full'}: No space left on device: make room or choose ")
    assert all(first == second for first, second in found.values())
    assert not any((tmp_path / name).exists() for name in ("data", "flags"))
    assert not list((tmp_path / "full").iterdir())


@pytest.mark.exhaustive
def test_a_workdir_that_the_first_cannot_make_ends_both(tmp_path):
    (tmp_path / "file").touch()
    args = ["train.py", "gpt-text", "--distributed", "--workdir", str(tmp_path / "file" / "run")]
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("line\n" * 100)
    cache = tmp_path / "cache"
    began = time.monotonic()
    both = processes.run([*args, "--data.path", str(corpus), "--data.cache-dir", str(cache), "--mesh.data", "2"], 2)
    assert time.monotonic() - began < 90
    line = f"error: {tmp_path}/file/run: {tmp_path}/file is a file, not a folder: give another path"
    assert [(one.code, one.error_lines) for one in both] == 2 * [(2, [line])], both
    assert not cache.exists()


@pytest.mark.exhaustive
def test_a_late_start_and_a_checkpoint_that_one_sees_damaged(tmp_path):
    found = outcomes(tmp_path, "late", "damaged", "fallback")
    assert found["late"] == ["step 6", "step 6"]
    [line] = set(found["damaged"])
    assert line.endswith("as the second sees it (process 1 of 2). To go on from step 4: --checkpoint.fallback True")
    said, quiet = found["fallback"]
    assert quiet == "step 6"
    assert said.endswith("It is set aside as " + str(tmp_path / "late/checkpoints/6.damaged-1") + " | step 6")
    steps = sorted(path.name for path in (tmp_path / "late" / "checkpoints").iterdir())
    assert "6" in steps
    assert "6.damaged-1" in steps


@pytest.mark.exhaustive
def test_capsules_that_one_cannot_write(tmp_path):
    found = outcomes(tmp_path, "capsule_batch", "capsule_disk")
    for scene, reason in {"capsule_batch": "Input/output error (in process 1 of 2 on HOST, phase ", "capsule_disk": "No space left"}.items():  # fmt: skip # noqa: E501
        said, quiet = found[scene]
        assert "not finite in 2 updates in a row" in quiet
        assert said.endswith(quiet)
        assert "which could not be written down: " in said
        assert reason in said


@pytest.mark.exhaustive
def test_a_record_that_one_cannot_read_ends_both(tmp_path):
    for one in processes.run([SCENES, str(tmp_path), "record"], 2, timeout=400):
        assert (one.code, one.error_lines) == (2, ["error: record 7 of the store cannot be read"]), one.err


def struck(folder, scene, said, process, number):
    """Returns how two processes ended, and after how long, once one of them got a signal in a scene."""
    with processes.started([SCENES, str(folder), scene], 2) as both:
        for one in both:
            while said not in (line := one.stdout.readline()):
                assert line, one.stderr.read()
        began = time.monotonic()
        both[process].send_signal(number)
        return processes.ended(both, timeout=120), time.monotonic() - began


@pytest.mark.exhaustive
@pytest.mark.parametrize("scene", ["slow_compilation", "slow_data"])
def test_a_signal_to_one_where_nothing_is_unsaved_ends_both(scene, tmp_path):
    both, seconds = struck(tmp_path, scene, "compiling" if scene == "slow_compilation" else "preparing", 1, signal.SIGTERM)  # fmt: skip # noqa: E501
    name = scene.removeprefix("slow_").replace("data", "slow")
    line = f"error: SIGTERM: stopped; nothing was unsaved. To go on: python train.py --workdir {tmp_path / name}"
    for one in both:
        assert (one.code, one.error_lines) == (75, [line]), one.err
    assert seconds < 60


@pytest.mark.exhaustive
@pytest.mark.parametrize("process", [0])
def test_one_that_is_killed_is_missed_by_name(process, tmp_path):
    both, seconds = struck(tmp_path, "stepping", "stepping", process, signal.SIGKILL)
    assert both[process].code == -signal.SIGKILL
    left = both[1 - process]
    assert left.code == 1, left.err
    [line] = left.error_lines
    assert line.startswith(f"error: process {process} of 2 (pid ")
    assert " is gone, in phase " in line
    assert line.endswith(GONE)
    assert seconds < 60


@pytest.mark.exhaustive
def test_a_second_signal_to_one_ends_both_at_once(tmp_path):
    with processes.started([SCENES, str(tmp_path), "stepping"], 2) as both:
        for one in both:
            while "stepping" not in one.stdout.readline():
                pass
        both[0].send_signal(signal.SIGSTOP)  # so that the two do not stop in order first
        both[1].send_signal(signal.SIGTERM)
        time.sleep(PAIR + 0.5)  # sooner it would be the same request again
        both[1].send_signal(signal.SIGTERM)
        time.sleep(0.5)
        both[0].send_signal(signal.SIGCONT)
        for one in processes.ended(both, timeout=120):
            assert one.code == 128 + signal.SIGTERM, one.err
            assert one.error_lines == ["error: SIGTERM again: leaving at once; what was saved before is whole"]
