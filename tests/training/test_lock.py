"""One start of a run at a time: the second is refused by name, and a killed one leaves no lock."""

import json
import os
import subprocess
import sys
import time

import pytest
from etils import epath

from tests.training import fake_gcs
from transformer.errors import UserError
from transformer.training import lock as locks
from transformer.training.lock import NAME, RunLock

HOLD = """
import os, sys, time
from etils import epath
from transformer.training.lock import RunLock
with RunLock(epath.Path(sys.argv[1])) as lock:
    lock.take()
    reading, writing = os.pipe()
    if os.fork() == 0:  # a worker, which outlives a kill of its parent
        os.write(writing, b"runs")
        time.sleep(60)
        os._exit(0)
    os.read(reading, 4)
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds a folder's lock until it gets a line."""
    command = [sys.executable, "-W", "ignore", "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, process_group=0, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        os.killpg(process.pid, 9)


def test_the_second_is_refused_by_name_and_a_kill_releases(holder, tmp_path):
    folder = epath.Path(tmp_path)
    before = (tmp_path / NAME).read_bytes()
    for start in (RunLock.check_free, RunLock.take):
        with RunLock(folder) as second, pytest.raises(UserError, match="is going on already") as refused:
            start(second)
        assert f"in process {holder.pid} on {os.uname().nodename}, since 20" in str(refused.value)
        assert "\n" not in str(refused.value)
    assert (tmp_path / NAME).read_bytes() == before
    holder.kill()
    holder.wait()
    with RunLock(folder) as third:
        third.check_free()
        third.take()
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
        with RunLock(folder) as fourth, pytest.raises(UserError, match="is going on already"):
            fourth.take()
    assert list(tmp_path.iterdir()) == []


def test_an_orderly_end_leaves_no_file(holder, tmp_path):
    holder.stdin.write("\n")
    holder.stdin.flush()
    holder.wait()  # and not for the end of its output, which its worker holds open
    assert list(tmp_path.iterdir()) == []
    RunLock(epath.Path(tmp_path)).check_free()
    assert list(tmp_path.iterdir()) == []


def test_processes_that_do_not_share_the_folder_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_SEEN", 0.3)
    with RunLock(epath.Path(tmp_path)) as lock:
        lock.take()
        RunLock(epath.Path(tmp_path)).seen(lock.record)
        with pytest.raises(UserError, match="not the same folder on .*: --workdir must name one that all machines"):
            RunLock(epath.Path(tmp_path / "another")).seen(lock.record)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    server = fake_gcs.serve(tmp_path_factory.mktemp("store"))
    yield epath.Path("gs://bucket")
    server.shutdown()
    server.server_close()


@pytest.fixture
def place(bucket, request):
    folder = bucket / request.node.name.partition("[")[0]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_in_a_store_the_file_is_the_lock(place, monkeypatch):
    monkeypatch.setattr(locks, "RENEWED", 0.05)
    with RunLock(place) as first:
        first.take()
        began = json.loads((place / NAME).read_text())
        with RunLock(place) as second:
            for start in (second.check_free, second.take):
                with pytest.raises(UserError, match=f"in process {os.getpid()} on .*, since 20.*free 180 s after"):
                    start()
        time.sleep(0.5)
        assert json.loads((place / NAME).read_text())["renewed"] > began["renewed"]
    assert not (place / NAME).exists()


@pytest.mark.parametrize("why", ["its process is dead", "it was not renewed"])
def test_in_a_store_a_dead_lock_is_taken_over(why, place, monkeypatch):
    monkeypatch.setattr(locks, "_SETTLE", 0.05)
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    record = locks._own_record() | {"pid": int(process.stdout), "renewed": time.time()}
    if why == "it was not renewed":
        record |= {"machine": "another", "renewed": time.time() - locks.STALE - 1}
    (place / NAME).write_text(json.dumps(record))
    said = []
    with RunLock(place, said.append) as lock:
        lock.take()
        assert json.loads((place / NAME).read_text())["pid"] == os.getpid()
    [line] = said
    assert f"is taken over from process {record['pid']} on" in line


def test_a_disk_without_locks_is_like_a_store(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    with RunLock(epath.Path(tmp_path)) as first, RunLock(epath.Path(tmp_path)) as second:
        first.take()
        with pytest.raises(UserError, match="is going on already"):
            second.take()
    assert not (tmp_path / NAME).exists()


TAKEN = """
import json, sys, time
from etils import epath
from transformer.training import lock as locks
locks.RENEWED = 0.1
locks.fcntl.flock = lambda *_: (_ for _ in ()).throw(OSError(37, "No locks available"))
folder = epath.Path(sys.argv[1])
with locks.RunLock(folder) as lock:
    lock.take()
    other = {"token": "another", "host": "far", "pid": 7, "since": "now", "renewed": time.time()}
    (folder / "lock.json").write_text(json.dumps(other))
    time.sleep(60)
"""


def test_whoever_lost_the_lock_ends(tmp_path):
    """As a process does that was suspended for long."""
    ended = subprocess.run(
        [sys.executable, "-c", TAKEN, str(tmp_path)], capture_output=True, text=True, timeout=50, check=False
    )
    assert ended.returncode == 2, ended.stderr
    assert "lock.json was taken over by process 7 on far, since now" in ended.stderr
