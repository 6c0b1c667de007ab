"""Local checkpoints that are damaged, that find no room, or whose writer is killed: none of them is taken for whole."""

import os
import resource

import pytest

from tests import processes
from tests.checkpoint.local_scenes import disk, opened, restored, same, saved, state
from transformer.checkpoint import lineage, local_folder
from transformer.errors import UserError


def damage_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage", "line"),
    [
        ("params/1-0.bin", damage_byte, "the local checkpoint of step 4 is not used: {}: its content changed"),
        ("opt_state/0-1.bin", lambda path: os.truncate(path, 8), "the local checkpoint of step 4 is not used: {}: its"),
        ("opt_state/1-0.bin", os.remove, "the local checkpoint of step 4 is not used: [Errno 2] No such file"),
        ("manifest.json", damage_byte, "local checkpoints are not used: step 4: its manifest is damaged"),
        ("manifest.json", os.remove, "local checkpoints are not used: step 4: its manifest is damaged"),
        ("manifest.json", lambda path: os.truncate(path, 0), "local checkpoints are not used: step 4: its manifest is"),
    ],
)
def test_a_damaged_file_is_noticed(tmp_path, file, damage, line):
    saved(tmp_path, 4)
    [path] = (tmp_path / "disk").glob(f"*/*/4/{file}")
    damage(path)
    got, [said] = restored(tmp_path)
    assert got is None
    assert said.startswith(line.format(path))
    assert "\n" not in said


def test_a_damaged_manifest_is_noticed_wherever_it_is_damaged(tmp_path):
    saved(tmp_path, 4)
    [path] = (tmp_path / "disk").glob("*/*/4/manifest.json")
    content = path.read_bytes()
    assert local_folder._manifest(path.parent) is not None
    for place in range(0, len(content), 37):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        manifest = local_folder._manifest(path.parent)
        assert manifest is None or chr(content[place]).isspace()


@pytest.mark.parametrize("size", [0, 10, 40, 300])
def test_a_full_disk_is_said_and_leaves_the_one_before(tmp_path, size):
    """The kernel's limit on the size of files is met as a full disk is."""
    with opened(tmp_path, begun=False) as local:
        local.begin(None)
        local.save(4, **state(seed=4), evaluated=False)
        assert local.outcome(wait=True).failure is None
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            local.save(5, **state(seed=5), evaluated=False)
            outcome = local.outcome(wait=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "File too large" in outcome.failure
        assert disk(tmp_path) == ["4"]
        local.save(5, **state(seed=5), evaluated=False)
        assert local.outcome(wait=True).failure is None
    assert disk(tmp_path) == ["5"]
    same(restored(tmp_path)[0], 5)


def test_a_folder_that_cannot_be_made_is_a_failure_of_the_save_alone(tmp_path):
    (tmp_path / "disk").write_text("a file")
    with opened(tmp_path, begun=False) as local:
        local.begin(None)
        local.save(4, **state(), evaluated=False)
        assert "Not a directory" in local.outcome(wait=True).failure


def test_the_run_folder_must_take_the_record(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lineage, "write_atomically", full)
    with opened(tmp_path) as local, pytest.raises(UserError, match="No space left on device: make room"):
        local.begin(None)


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from transformer.checkpoint.local_folder import LocalFolder, _manifest

ROOT, rng = Path(sys.argv[1]), random.Random(0)
bounds = {"shape": [50_000], "dtype": "float32", "parts": [{"bounds": [[0, 50_000]]}]}
parts = [[np.arange(50_000, dtype=np.float32)] for _ in range(6)]

def save(folder):
    for step in range(1, 10**6):
        described = {name: {str(n): {**bounds, "parts": [dict(bounds["parts"][0])]} for n in range(6)}
                     for name in ("params", "opt_state")}
        folder.write({"step": step, "start": "s", **described}, {"params": parts, "opt_state": parts})
        folder.remove(lambda other: other < step)

def whole_ones(number):
    return [path for path in ROOT.glob(f"{number}/*/*") if path.name.isdigit()]

counts = set()
for number in range(25):
    folder = LocalFolder(ROOT / str(number), 0, 1)
    child = os.fork()
    if child == 0:
        save(folder)
    while not whole_ones(number):
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    whole = whole_ones(number)
    assert len(whole) in (1, 2), whole  # the one before may not be removed yet
    for path in whole:
        assert _manifest(path) is not None, path
        assert all(len(list(path.glob(f"{tree}/*.bin"))) == 6 for tree in ("params", "opt_state")), path
        assert {file.stat().st_size for file in path.glob("*/*.bin")} == {200_000}, path
    counts.add(tuple(sorted(path.name.lstrip("0123456789") for path in ROOT.glob(f"{number}/*/*"))))
print(len(counts))
"""


@pytest.mark.exhaustive
def test_a_kill_at_any_instant_leaves_no_half_that_counts(tmp_path):
    [ended] = processes.run(["-W", "ignore", "-c", KILLED, str(tmp_path)], 1)
    assert ended.code == 0, ended.err
    assert int(ended.out) > 1  # some came within a write
