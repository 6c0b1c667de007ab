"""Local checkpoints: what is restored is what was saved, by this run, on this mesh; else nothing is."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checkpoint.local_scenes import (
    ARCHITECTURE,
    abstract,
    disk,
    mesh,
    opened,
    placed,
    restored,
    same,
    saved,
    state,
)
from transformer.checkpoint import lineage, shards
from transformer.checkpoint.local import check_place
from transformer.errors import UserError

DTYPES = ("float32", "bfloat16", "int32", "uint32", "bool", "float8_e4m3fn")


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


@pytest.mark.parametrize("place", ["run", "run/local", "link"])
def test_a_place_in_the_run_folder_is_refused(tmp_path, place):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(UserError, match=f"{place} is in the run folder, with the durable checkpoints: name a folder"):
        check_place(str(tmp_path / place), tmp_path / "run")
    check_place(str(tmp_path / "runs"), tmp_path / "run")
