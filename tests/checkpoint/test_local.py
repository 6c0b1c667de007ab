"""Local checkpoints: what is restored is what was saved, by this run, on this mesh; else nothing is."""

import json
import os
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tests import processes
from transformer.checkpoint import lineage, local_folder, shards
from transformer.checkpoint.local import LocalCheckpoints, check_place
from transformer.errors import UserError

ARCHITECTURE = {"family": "tiny", "width": 4}
DTYPES = ("float32", "bfloat16", "int32", "uint32", "bool", "float8_e4m3fn")


def mesh(rows, columns):
    return Mesh(np.array(jax.devices()[: rows * columns]).reshape(rows, columns), ("x", "y"))


def placed(values, on, spec):
    return jax.device_put(values, NamedSharding(on, PartitionSpec(*spec)))


def state(on=None, seed=0):
    """A little state: cut on both axes, on one, on none; a scalar."""
    rng, on = np.random.default_rng(seed), on or mesh(2, 2)
    noise = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return {
        "params": {"w": placed(noise(4, 8), on, ("x", "y")), "b": placed(noise(8), on, (None,))},
        "opt_state": {"m": placed(noise(4, 8), on, ("y", None)), "step": placed(jnp.int32(seed), on, ())},
    }


def abstract(trees):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trees)


def opened(folder, *, run="run", architecture=ARCHITECTURE, begun=True):
    (folder / run).mkdir(exist_ok=True)
    return LocalCheckpoints(str(folder / "disk"), folder / run, architecture, begun=begun)


def saved(folder, *steps, run="run", on=None):
    """Leaves local checkpoints of these steps, as a start that was killed after them does."""
    with opened(folder, run=run, begun=False) as local:
        local.begin(None)
        for step in steps:
            local.save(step, **state(on, step), evaluated=step % 2 == 0)
            outcome = local.outcome(wait=True)
            assert outcome is not None
            assert outcome.failure is None
            assert outcome.size > 0


def restored(folder, after=0, *, on=None, **options):
    """Returns what the next start restores, and what it reports."""
    said = []
    with opened(folder, **options) as local:
        return local.restore(after, said.append, **abstract(state(on))), said


def same(got, step, on=None):
    assert got is not None
    assert got.step == step
    for tree, wanted in state(on, step).items():
        for path, leaf in wanted.items():
            found = getattr(got, tree)[path]
            assert found.sharding == leaf.sharding
            np.testing.assert_array_equal(np.asarray(found), np.asarray(leaf))


def disk(folder):
    """The checkpoints on the disk, and whatever else is there."""
    return sorted(path.name for run in (folder / "disk").glob("*") for path in run.glob("process-0-of-1/*"))


@pytest.mark.parametrize("on", [(1, 1), (2, 2), (4, 1)])
def test_the_newest_is_restored_as_it_was(tmp_path, on):
    saved(tmp_path, 3, 4, on=mesh(*on))
    assert disk(tmp_path) == ["4"]
    got, said = restored(tmp_path, on=mesh(*on))
    same(got, 4, mesh(*on))
    assert got.evaluated
    assert said == []


@settings(max_examples=15)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.sampled_from([0, 2, 4, 8]), max_size=3),
    spec=st.permutations(["x", "y", None]),
    seed=st.integers(0, 99),
)
def test_any_array_comes_back_bit_for_bit(tmp_path_factory, dtype, shape, spec, seed):
    folder = tmp_path_factory.mktemp("shards")
    values = np.random.default_rng(seed).integers(0, 2, shape) * np.float32(np.nan if dtype == "float32" else 1)
    tree = {"a": placed(jnp.asarray(values, dtype), mesh(2, 2), spec[: len(shape)])}
    description = shards.described(tree)
    assert description == json.loads(json.dumps(shards.described(abstract(tree))))
    size = shards.write(folder, "tree", description, shards.copied(tree))
    assert size == tree["a"].nbytes
    back = shards.read(folder, "tree", description, abstract(tree))["a"]
    assert (back.dtype, back.sharding) == (tree["a"].dtype, tree["a"].sharding)
    assert np.asarray(back).tobytes() == np.asarray(tree["a"]).tobytes()


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    """The next step writes into the arrays' memory while they are on their way to the disk."""
    step = jax.jit(lambda trees: jax.tree.map(lambda x: x + 1, trees), donate_argnums=0)
    with opened(tmp_path, begun=False) as local:
        local.begin(None)
        trees = state(seed=7)
        local.save(7, **trees, evaluated=False)
        for _ in range(3):
            trees = step(trees)
        assert local.outcome(wait=True).failure is None
    same(restored(tmp_path)[0], 7)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("a durable one is as new", []),
        ("the run has not begun", []),
        ("another run", []),
        ("a copy of the run", []),
        ("another architecture", ["local checkpoints are not used: step 4: it is of another architecture"]),
        ("another mesh", ["local checkpoints are not used: step 4: it is of another mesh"]),
        ("other processes", ["local checkpoints are not used: step 4: it is of 2 processes"]),
        ("a start went on from another", []),
        ("a start kept none", []),
    ],
)
def test_what_is_not_this_runs_newest_is_not_restored(tmp_path, case, said):
    saved(tmp_path, 4)
    options = {}
    if case == "a durable one is as new":
        options = {"after": 4}
    elif case == "the run has not begun":
        options = {"begun": False}
    elif case == "another run":
        options = {"run": "other"}
    elif case == "a copy of the run":
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        options = {"run": "copy"}
    elif case == "another architecture":
        options = {"architecture": ARCHITECTURE | {"width": 5}}
    elif case == "another mesh":
        options = {"on": mesh(4, 1)}
    elif case == "other processes":
        [run] = (tmp_path / "disk").iterdir()
        (run / "process-0-of-1").rename(run / "process-0-of-2")
    elif case == "a start went on from another":
        [run] = (tmp_path / "disk").iterdir()
        run.rename(tmp_path / "away")  # a node that comes back later
        with opened(tmp_path) as local:
            local.begin(None)
        (tmp_path / "away").rename(run)
    else:
        lineage.forget(tmp_path / "run")
    assert restored(tmp_path, **options) == (None, said)
    assert sorted(path.name for path in (tmp_path / "disk").glob("*/*/*")) == ["4"]  # a look removes nothing


def test_a_start_removes_what_counts_no_more_and_nothing_of_other_runs(tmp_path):
    saved(tmp_path, 4)
    saved(tmp_path, 5, run="other")
    [mine] = {run.parent.parent for run in (tmp_path / "disk").glob("*/*/4")}
    (mine / "process-0-of-1" / "9.partial").mkdir()
    shutil.copytree(mine / "process-0-of-1", mine / "process-0-of-2")
    with opened(tmp_path) as local:
        local.begin(None)
    assert disk(tmp_path) == ["5"]
    assert not mine.exists()
    same(restored(tmp_path, run="other")[0], 5)


def test_a_start_goes_on_from_the_same_one_twice(tmp_path):
    """It is killed again before its first save."""
    saved(tmp_path, 4)
    for _ in range(3):
        with opened(tmp_path) as local:
            got = local.restore(0, print, **abstract(state()))
            same(got, 4)
            local.begin(got)
    with opened(tmp_path) as local:
        local.begin(local.restore(0, print, **abstract(state())))
        local.save(6, **state(seed=6), evaluated=False)
    same(restored(tmp_path)[0], 6)
    assert disk(tmp_path) == ["6"]


def test_what_is_no_newer_than_a_durable_one_goes(tmp_path):
    with opened(tmp_path, begun=False) as local:
        local.begin(None)
        local.save(4, **state(), evaluated=False)
        local.drop(3)
        assert local.outcome(wait=True) is not None
        local.drop(3)
        local.save(5, **state(), evaluated=False)
        local.drop(4)
    assert disk(tmp_path) == ["5"]
    with opened(tmp_path) as local:
        local.drop(5)
    assert list((tmp_path / "disk").iterdir()) == []


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


@pytest.mark.parametrize("place", ["run", "run/local", "link"])
def test_a_place_in_the_run_folder_is_refused(tmp_path, place):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(UserError, match=f"{place} is in the run folder, with the durable checkpoints: name a folder"):
        check_place(str(tmp_path / place), tmp_path / "run")
    check_place(str(tmp_path / "runs"), tmp_path / "run")


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


TOGETHER = """
    import json, pathlib, resource, shutil
    import jax, numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from transformer.checkpoint.local import LocalCheckpoints
    from transformer.cluster.agreement import exchange, own_index

    FOLDER, OWN = pathlib.Path({folder!r}), own_index()
    (FOLDER / "run").mkdir(exist_ok=True)
    on = Mesh(np.asarray(jax.devices()).reshape(2, 2), ("x", "y"))

    def tree(step, *spec):
        values = np.random.default_rng(step).normal(size=(4, 40)).astype(np.float32)
        sharding = NamedSharding(on, PartitionSpec(*spec))
        return {{"w": jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])}}

    def trees(step):
        return dict(params=tree(step, "x", "y"), opt_state=tree(-step % 97, None, "y"))

    aim = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trees(1))

    def start():
        exchange("the test", 0)
        return LocalCheckpoints(str(FOLDER / "disk"), FOLDER / "run", {{}}, begun=True)

    def own(step):
        [path] = (FOLDER / "disk").glob(f"*/process-{{OWN}}-of-2/{{step}}")
        return path

    def save(local, step, full=False):
        if full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50, resource.RLIM_INFINITY))
        local.save(step, **trees(step), evaluated=False)
        saved = local.outcome(wait=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        exchange("the test", 0)
        print(json.dumps([saved.failure, sorted(path.name for path in (FOLDER / "disk").glob("*/*/*"))]), flush=True)
        exchange("the test", 0)  # before the other one saves again

    def restore(local):
        said = []
        got = local.restore(0, said.append, **aim)
        right = None
        if got is not None:
            pairs = zip(jax.tree.leaves((got.params, got.opt_state)), jax.tree.leaves(tuple(trees(got.step).values())))
            right = all(np.array_equal(x.data, y.data) for a, b in pairs for x, y in
                        zip(a.addressable_shards, b.addressable_shards))
        exchange("the test", 0)
        print(json.dumps([got and got.step, right, said]), flush=True)
        return got

    with start() as local:
        local.begin(None)
        save(local, 3)
        save(local, 4, full=OWN == 1)
        save(local, 5, full=OWN == 0)
        save(local, 6)
    with start() as local:
        local.begin(restore(local))
    with start() as local:
        if OWN == 1:
            shutil.rmtree(own(6))
        restore(local)
        local.begin(None)
        save(local, 7)
    with start() as local:
        if OWN == 0:
            path = own(7) / "params" / "0-0.bin"
            path.write_bytes(bytes(80))
        restore(local)
"""


@pytest.mark.exhaustive
def test_two_processes_restore_what_both_have(tmp_path):
    ended = processes.run_program(TOGETHER.format(folder=str(tmp_path)), 2, devices=2)
    rows, others = ([json.loads(line) for line in one.out.splitlines() if line.startswith("[")] for one in ended)
    assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err
    assert rows == others
    [third, fourth, fifth, sixth, restored_six, lost, seventh, damaged] = rows
    assert third == [None, ["3", "3"]]
    for process, (failure, left) in ((1, fourth), (0, fifth)):
        assert "File too large" in failure
        assert failure.endswith(f"(process {process} of 2)")
        assert left == ["3", "3"]
    assert sixth == [None, ["6", "6"]]
    assert restored_six == [6, True, []]
    assert lost == [None, None, ["local checkpoints are not used: step 6: it is not there (process 1 of 2)"]]
    assert seventh == [None, ["7", "7"]]
    [path] = tmp_path.glob("disk/*/process-0-of-2/7/params/0-0.bin")
    line = f"the local checkpoint of step 7 is not used: {path}: its content changed (process 0 of 2)"
    assert damaged == [None, None, [line]]
