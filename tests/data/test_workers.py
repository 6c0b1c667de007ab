import contextlib
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.corpus import build_store
from tests.exhaustive import few
from transformer.data.pipeline import eval_batches, iterate, train_batches
from transformer.data.text.config import TextConfig
from transformer.data.text.sources import open_path
from transformer.data.text.store import TokenStore
from transformer.data.text.windows import Windows
from transformer.data.workers import check_workers
from transformer.errors import UserError
from transformer.tokenizers.raw_bytes import ByteTokenizer

from . import golden
from .test_pipeline import assert_same, batches, make_example, make_windows


class Refuses:
    """Examples, until a record of a window that begins with some token."""

    def __init__(self, token, error):
        self.token, self.error = token, error

    def __call__(self, window, rng):
        if window["tokens"][0] == self.token:
            raise self.error
        print("what an example prints must not come between the batches")
        return make_example(window, rng)


def session(pid):
    """The processes of a session that are no zombies."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            state, _, _, leader = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(leader) == pid and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


def wait_until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert value
    return value


def until_error(made):
    """The batches, and the error that came instead of the next."""
    found = []
    try:
        found.extend(made)
    except Exception as error:
        return found, error
    raise AssertionError("no error")


def children():
    """The worker processes of this one."""
    return {int(pid) for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


@pytest.mark.parametrize("workers", few([1, 2, 3], 3))
def test_any_number_of_workers_makes_the_same_batches_in_the_same_order(workers):
    before, threads = children(), set(threading.enumerate())
    dataset = golden.training(golden.OBJECTIVES["masked"], (0.7, 0.3), skip=(81,))
    start = 5 * workers - 4
    with iterate(dataset, start, workers=workers) as made:
        for step in range(start, start + 9):
            assert_same(next(made), dataset[step])
        assert len(children() - before) == workers
    assert children() == before
    assert set(threading.enumerate()) == threads
    with pytest.raises(StopIteration):
        next(made)
    made.close()


def test_the_data_end_where_they_end_without_workers():
    windows = Windows(golden.make_text_store(0), 33, overlap=1, drop_remainder=False)
    dataset = eval_batches(windows, example=make_example, batch_size=32)
    with iterate(dataset, 0) as alone, iterate(dataset, 0, workers=2, prefetch=1) as made:
        for first, second in zip(alone, made, strict=True):
            assert_same(first, second)
        with pytest.raises(StopIteration):
            next(made)


@pytest.mark.parametrize(
    "error",
    [
        UserError("record 7 is bad: mend it"),
        pytest.param(ZeroDivisionError("in the example"), marks=pytest.mark.exhaustive),
    ],
)
def test_an_error_comes_in_the_place_of_its_batch(error):
    before = children()  # another test's pool leaves Python's resource tracker behind
    dataset = train_batches([make_windows(81)], [1.0], example=Refuses(41, error), batch_size=2, seed=0)
    with iterate(dataset, 0) as alone, iterate(dataset, 0, workers=1) as made:
        batches_alone, error_alone = until_error(alone)
        batches_made, error_made = until_error(made)
        assert batches_alone
        for first, second in zip(batches_alone, batches_made, strict=True):
            assert_same(first, second)
        assert (type(error_made), str(error_made)) == (type(error_alone), str(error_alone)) == (type(error), str(error))
        assert children() == before


def test_a_worker_that_is_killed_ends_the_run_with_its_name_and_none_sees_accelerator_or_cluster(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    before = children()
    with iterate(batches([make_windows(201)]), 0, workers=2, prefetch=1) as made:
        first = next(made)
        pids = [process.pid for process in made._iterator._processes]
        assert set(pids) == children() - before
        for pid in pids:
            environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
            found = {line for line in environment if line.startswith(("JAX_", "CUDA_"))}
            assert found == {"JAX_PLATFORMS=cpu", "CUDA_VISIBLE_DEVICES="}
        os.kill(pids[1], signal.SIGKILL)
        begun = time.monotonic()
        _, death = until_error(made)
        assert isinstance(death, UserError)
        assert re.match(rf"data worker 2 of 2 \(process {pids[1]}\) was killed by SIGKILL", str(death))
        assert time.monotonic() - begun < 20
        assert "\n" not in str(death)
    assert first["targets"].shape == (8, 4)
    assert children() == before


@pytest.mark.parametrize(
    ("number", "moment"),
    few(
        [
            (signal.SIGKILL, "running"),
            (signal.SIGINT, "starting"),
            (signal.SIGKILL, "starting"),
            (signal.SIGINT, "running"),
            (signal.SIGTERM, "starting"),
            (signal.SIGTERM, "running"),
            (signal.SIGUSR1, "running"),
        ],
        (signal.SIGKILL, "running"),
    ),
)
def test_workers_leave_signals_to_their_parent_and_end_with_it(number, moment):
    """A terminal and a scheduler send a signal to the whole group; SIGKILL here comes to the parent alone."""
    code = (
        "from tests.data.test_pipeline import batches, make_windows\n"
        "from transformer.data.pipeline import iterate\n"
        "import signal, sys, time\n"
        "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):\n"
        "    signal.signal(number, lambda *_: (print('parent stops', flush=True), sys.exit(7)))\n"
        "with iterate(batches([make_windows(201)]), 0, workers=2) as made:\n"
        "    print('begun', flush=True)\n"
        "    print(*(next(made)['targets'].shape for _ in range(2)), flush=True)\n"
        "    while True:\n"
        "        next(made), time.sleep(0.05)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline() == "begun\n"
        if moment == "running":
            assert process.stdout.readline() == "(8, 4) (8, 4)\n"
        assert len([line for line in session(process.pid).values() if "transformer.data.worker" in line]) == 2
        if number == signal.SIGKILL:
            process.kill()
        else:
            os.killpg(process.pid, number)
        said, complaints = process.communicate(timeout=60)
        wait_until(lambda: not session(process.pid))
        assert complaints == ""
        assert said == ("" if number == signal.SIGKILL else "parent stops\n")
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 7)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_a_store_is_sent_by_its_path(tmp_path):
    (tmp_path / "c.txt").write_text("a line of text\n\n" * 500)
    source = open_path(str(tmp_path / "c.txt"), TextConfig(validation_fraction=0.2))
    store = build_store(source, "train", ByteTokenizer(), tmp_path / "cache")
    sent = pickle.dumps(Windows(store, 9, overlap=1, drop_remainder=True))
    assert len(sent) < 1000
    windows = pickle.loads(sent)
    assert isinstance(windows.store, TokenStore)
    np.testing.assert_array_equal(windows.store.tokens, store.tokens)
    np.testing.assert_array_equal(windows.store.offsets, store.offsets)
    assert windows.store.meta == store.meta
    in_memory = golden.make_text_store(0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(in_memory)).tokens, in_memory.tokens)


def test_numbers_of_workers_that_make_no_sense_are_refused():
    with pytest.raises(UserError, match=r"workers is -1: it must be 0"):
        TextConfig(workers=-1)
    check_workers(0)
    check_workers(3)
    with pytest.raises(UserError, match=r"--data\.workers 100000: this process has \d+ cores"):
        check_workers(100_000)
