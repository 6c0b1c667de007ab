"""The checkpoints of a run: what is kept, what a failed or killed save leaves, what damage is noticed."""

import contextlib
import gc
import hashlib
import json
import random
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.exhaustive import few
from transformer.checkpoint import (
    CheckpointConfig,
    Checkpoints,
    Damaged,
    Files,
    checkpoints,
    prune,
    reading,
    seal,
    verify,
)
from transformer.checkpoint.interval import young_daly
from transformer.errors import UserError

FULL = OSError(28, "No space left on device")


NOISE = np.random.default_rng(0).normal(size=(2, 48, 16)).astype(np.float32)  # too long for TensorStore's index


def state(value=1.0):
    return {
        "params": {"dense": {"kernel": jnp.asarray(value * NOISE[0]), "bias": jnp.arange(4.0)}},
        "opt_state": {"m": jnp.asarray(value * NOISE[1]), "count": jnp.asarray(3)},
    }


WANT = jax.tree.map(np.asarray, state())


def save(store, step, value=1.0, metrics=None):
    store.save(step, **state(value), data={"step": step}, record={"architecture.json": b"{}"}, metrics=metrics)
    return store.outcome(wait=True)


def names(folder):
    return {path.name for path in folder.iterdir()}


def restore(store, step):
    params, opt_state, _ = store.restore(step, **state(0.0))
    return jax.tree.map(np.asarray, {"params": params, "opt_state": opt_state})


def test_a_save_says_what_it_cost_and_comes_back(tmp_path):
    with Checkpoints(tmp_path) as store:
        saved = save(store, 5, metrics={"eval_loss": 1.0})
        assert (saved.step, saved.failure) == (5, None)
        assert 0 < saved.blocked < saved.seconds
        files = [path for path in (tmp_path / "5").rglob("*") if path.is_file() and path.name != "seal.json"]
        assert saved.size == sum(path.stat().st_size for path in files)
        assert store.outcome(wait=True) is None
        np.testing.assert_equal(restore(store, 5), WANT)
        assert store.restore(5, **state())[2] is True  # it was evaluated
        assert verify(tmp_path / "5") == []


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (CheckpointConfig(keep=2, keep_best=0), {8, 9}),
        (CheckpointConfig(keep=1, keep_best=1), {4, 9}),
        (CheckpointConfig(keep=1, keep_best=2, best="eval_accuracy", best_is="highest"), {2, 6, 9}),
        (CheckpointConfig(keep=1, keep_best=0, keep_every=4), {4, 8, 9}),
    ],
)
def test_keeps_what_it_was_told(config, kept, tmp_path):
    loss = {2: 3.0, 4: 1.0, 6: 2.0}
    with Checkpoints(tmp_path, config) as store:
        for step in range(1, 10):
            metrics = {"eval_loss": loss[step], "eval_accuracy": loss[step]} if step in loss else None
            assert save(store, step, metrics=metrics).failure is None
        assert set(store.steps) == kept == set(map(int, names(tmp_path)))
        assert store.steps[-1] == 9


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what Orbax began, and nobody awaits
@pytest.mark.parametrize("where", ["at once", "in the background", "in the seal"])
def test_a_full_disk_leaves_the_checkpoint_before_and_no_trace(where, tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    def full(*args, **kwargs):
        raise FULL

    async def write_fails(self, directory):
        async def write():
            await directory.await_creation()
            raise FULL

        return write()

    with Checkpoints(tmp_path) as store:
        save(store, 1)
        with monkeypatch.context() as patch:
            match where:
                case "at once":
                    patch.setattr(ocp, "save_checkpointables_async", full)
                case "in the background":
                    patch.setattr(Files, "save", write_fails)
                case "in the seal":
                    patch.setattr(checkpoints, "write_seal", full)
            failed = save(store, 2)
        assert "No space left on device" in failed.failure
        assert names(tmp_path) == {"1"}
        np.testing.assert_equal(restore(store, 1), WANT)
        assert save(store, 3).failure is None  # it can be tried again
        assert store.steps[-1] == 3
    gc.collect()  # here, not in another test


def test_the_next_save_does_not_wait_for_the_seal(tmp_path, monkeypatch):
    read, go_on = checkpoints.entries, threading.Event()

    def slow(*args):
        assert go_on.wait(60)
        return read(*args)

    monkeypatch.setattr(checkpoints, "entries", slow)
    with Checkpoints(tmp_path) as store:
        for step in (1, 2):
            store.save(step, **state(step), data={"step": step}, record={})
        assert store.outcome() is None  # neither is sealed
        go_on.set()
        assert [store.outcome(wait=True).step for _ in range(2)] == [1, 2]
        assert store.outcome(wait=True) is None
        assert [verify(tmp_path / str(step)) for step in (1, 2)] == [[], []]


def test_a_save_does_not_touch_a_checkpoint_of_the_same_step(tmp_path):
    with Checkpoints(tmp_path) as store:
        save(store, 1)
        assert "already exists" in save(store, 1, value=2.0).failure
        np.testing.assert_equal(restore(store, 1), WANT)


def test_what_cannot_be_removed_is_a_warning(tmp_path, monkeypatch):
    def full(*args):
        raise FULL

    with Checkpoints(tmp_path, CheckpointConfig(keep=1, keep_best=0)) as store:
        save(store, 1)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "remove", full)
            saved = save(store, 2)
        assert saved.failure is None
        assert saved.warning == "step 1 could not be removed: [Errno 28] No space left on device"
        assert save(store, 3).warning is None
        assert names(tmp_path) == {"3"}


def test_a_folder_that_is_still_written_to_is_removed(tmp_path):
    """By a thread that makes its folders anew, as TensorStore's writes do that are under way when a save fails."""
    folder, ends = tmp_path / "2.orbax-checkpoint-tmp", time.monotonic() + 1

    def write():
        number = 0
        while time.monotonic() < ends:
            with contextlib.suppress(OSError):
                (folder / "params" / "d").mkdir(parents=True, exist_ok=True)
                (folder / "params" / "d" / str(number := number + 1)).write_bytes(b"x")
            time.sleep(0.001)

    thread = threading.Thread(target=write)
    thread.start()
    while not folder.exists():
        time.sleep(0.001)
    prune.sweep(epath.Path(tmp_path))
    thread.join()
    assert names(tmp_path) == set()


def test_what_cannot_be_removed_now_is_left_for_the_next_time(tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError(39, "Directory not empty")

    (tmp_path / "2.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    monkeypatch.setattr(prune, "_PAUSE", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", fails)
        prune.sweep(epath.Path(tmp_path))
    assert names(tmp_path) == {"2.orbax-checkpoint-tmp.removed"}
    prune.sweep(epath.Path(tmp_path))
    assert names(tmp_path) == set()


def test_a_seal_of_an_earlier_version_is_read(whole, tmp_path):
    """With SHA-256, as they were written before."""
    shutil.copytree(whole, tmp_path / "7")
    files = {name: tmp_path / "7" / name for name in seal.sealed_files(epath.Path(whole))}
    old = {
        name: {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for name, path in files.items()
    }
    (tmp_path / "7" / "seal.json").write_text(json.dumps({"files": old}))
    assert verify(tmp_path / "7") == []
    name = next(name for name in files if "/d/" in name)
    content = bytearray(files[name].read_bytes())
    content[len(content) // 2] ^= 1
    files[name].write_bytes(bytes(content))
    assert f"{name}: its content changed" in verify(tmp_path / "7")


def test_each_process_hashes_what_it_wrote():
    names = ["params/ocdbt.process_0/d/x", "opt_state/ocdbt.process_3/d/x", "params/ocdbt.process_7/d/x", "record/a"]
    assert [seal.writer(name, 4) for name in names] == [0, 3, 0, 0]


def test_what_a_kill_left_is_removed(tmp_path):
    with Checkpoints(tmp_path) as store:
        save(store, 1)
        save(store, 2)
    (tmp_path / "1").rename(tmp_path / "1.removed")
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "3.orbax-checkpoint-tmp" / "params").write_bytes(b"half")
    with Checkpoints(tmp_path) as store:
        assert names(tmp_path) == {"2"}
        assert store.steps[-1] == 2


def test_a_checkpoint_without_its_seal_is_still_checked(tmp_path):
    """As a kill between the rename and the seal leaves it."""
    with Checkpoints(tmp_path) as store:
        save(store, 1)
        (tmp_path / "1" / "seal.json").unlink()
        np.testing.assert_equal(restore(store, 1), WANT)
        record = json.loads((tmp_path / "1" / "record" / "digests.json").read_text())
        record["params"]["dense/bias"]["digest"][0] ^= 1
        (tmp_path / "1" / "record" / "digests.json").write_text(json.dumps(record))
        with pytest.raises(Damaged, match="damaged: the values of params/dense/bias are not those that were saved"):
            restore(store, 1)
        assert any("seal.json: missing" in line for line in verify(tmp_path / "1"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with Checkpoints(folder) as store:
        save(store, 7, metrics={"eval_loss": 1.0})
    return folder / "7"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's reads after the first bad one
@pytest.mark.parametrize("every", few([7, 1], 7))
def test_every_damage_to_every_file_is_noticed(every, whole, tmp_path):
    """Each file deleted, truncated and with one bit flipped. A restore refuses, or gives the very values."""
    rng = random.Random(0)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert len(files) > 15
    files = files[::every]
    refused = 0
    for number, file in enumerate(files):
        for damage in ("deleted", "truncated", "flipped"):
            folder = tmp_path / f"{number}{damage}"
            content = (whole / file).read_bytes()
            if damage != "deleted" and not content:
                continue
            shutil.copytree(whole, folder / "7")
            path = folder / "7" / file
            if damage == "deleted":
                path.unlink()
            elif damage == "truncated":
                path.write_bytes(content[: len(content) // 2])
            else:
                place = rng.randrange(len(content))
                path.write_bytes(
                    content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]
                )
            assert verify(folder / "7"), (file, damage)
            with Checkpoints(folder) as store:
                assert store.steps[-1] == 7  # never passed over in silence
                try:
                    np.testing.assert_equal(restore(store, 7), WANT)
                except Damaged:
                    refused += 1
    assert refused > 2 * len(files)
    gc.collect()  # here, not in another test


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's reads after the first bad one
def test_flipped_values_are_noticed_without_the_hashes(whole, tmp_path):
    """Bits of the array data themselves, where neither Zarr nor Zstandard would notice: nothing wrong is restored."""
    noticed = 0
    data = next(path for path in (whole / "params" / "ocdbt.process_0" / "d").iterdir()).relative_to(whole)
    size = (whole / data).stat().st_size
    for place in range(0, size, max(size // 60, 1)):
        folder = tmp_path / str(place)
        shutil.copytree(whole, folder / "7")
        (folder / "7" / "seal.json").unlink()
        content = bytearray((whole / data).read_bytes())
        content[place] ^= 1
        (folder / "7" / data).write_bytes(bytes(content))
        with Checkpoints(folder) as store:
            try:
                np.testing.assert_equal(restore(store, 7), WANT)
            except Damaged:
                noticed += 1
    assert noticed > 20
    gc.collect()  # here, not in another test


def test_set_aside_keeps_what_is_damaged(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "7")
    shutil.copytree(whole, tmp_path / "5")
    with Checkpoints(tmp_path) as store:
        assert store.set_aside(7).name == "7.damaged-1"
        assert store.steps == [5]
        shutil.copytree(whole, tmp_path / "7")
        assert store.set_aside(7).name == "7.damaged-2"
    assert names(tmp_path) == {"5", "7.damaged-1", "7.damaged-2"}


def test_find_names_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="no such run or checkpoint"):
        reading.find(tmp_path / "nothing")
    with pytest.raises(UserError, match="no checkpoint here"):
        reading.find(tmp_path)


@pytest.mark.parametrize(("cost", "mtbf"), [(10.0, 3600.0), (60.0, 24 * 3600.0), (600.0, 7200.0)])
def test_young_daly_is_near_the_best_of_dalys_model(cost, mtbf):
    """Daly 2006, equation 20: the wall time of a run of exponential failures, minimised on a grid; restart costs 0."""
    intervals = np.linspace(cost, 20 * np.sqrt(2 * cost * mtbf), 20001)

    def wall(interval):
        return mtbf * (np.exp((interval + cost) / mtbf) - 1) / interval

    assert wall(young_daly(cost, mtbf)) <= wall(intervals).min() * (1 + 1e-3)
    assert young_daly(cost, mtbf) == pytest.approx(np.sqrt(2 * cost * mtbf), rel=0.3)


def test_young_daly_of_a_dear_save_is_the_mtbf():
    assert young_daly(5.0, 2.0) == 2.0
