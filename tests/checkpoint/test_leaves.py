"""What a checkpoint holds, from its metadata; and its arrays, read some at a time."""

import itertools

import jax
import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from orbax.checkpoint import v1 as ocp

from tests.checkpoint import tiny
from transformer.checkpoint import Damaged, leaves, stream
from transformer.checkpoint.leaves import Leaf
from transformer.errors import UserError
from transformer.parallel.mesh import MeshConfig


def test_the_metadata_is_that_of_the_arrays_that_were_saved(run):
    folder, saved = run
    found = epath.Path(folder / "checkpoints" / "3")
    assert leaves.trees(found) == ["params", "opt_state"]
    for name, tree in zip(leaves.TREES, saved[3], strict=True):
        have = leaves.stored(found, name)
        arrays = {
            jax.tree_util.keystr(path, simple=True, separator="/"): array
            for path, array in jax.tree.leaves_with_path(tree)
        }
        assert {path: (leaf.shape, leaf.dtype) for path, leaf in have.items()} == {
            path: (array.shape, array.dtype) for path, array in arrays.items()
        }
        assert leaves.total_bytes(have) == sum(array.nbytes for array in arrays.values())
        assert all(leaf.piece == leaf.shape for leaf in have.values())  # one device wrote all of each
    params = leaves.stored(found, "params")
    assert sum(leaves.modules(params).values()) == tiny.MODEL.num_params()
    assert leaves.modules(params)["backbone/token_embedding"] == 32 * 8
    assert leaves.origin(found).mesh == {}


def test_a_mesh_leaves_its_mark(tmp_path):
    tiny.make_run(tmp_path, mesh=MeshConfig(data=1, fsdp=4, tensor=2), steps=(1,))
    found = epath.Path(tmp_path / "checkpoints" / "1")
    assert leaves.origin(found).mesh == {"fsdp": 4, "tensor": 2}
    assert leaves.stored(found, "params")["backbone/token_embedding/embedding"].piece == (16, 2)


def test_some_leaves_are_read_and_no_others(run, monkeypatch):
    folder, saved = run
    asked, load = [], ocp.load_checkpointables

    def watched(path, abstract):
        asked.extend(leaf for leaf in jax.tree.leaves(abstract) if leaf is not ocp.PLACEHOLDER)
        return load(path, abstract)

    monkeypatch.setattr(ocp, "load_checkpointables", watched)
    found = epath.Path(folder / "checkpoints" / "2")
    path = "backbone/stack/layers/attention/query/kernel"
    read = stream.read_leaves(found, "params", [path])
    assert list(read) == [path]
    assert len(asked) == 1
    np.testing.assert_array_equal(
        read[path], saved[2][0]["backbone"]["stack"]["layers"]["attention"]["query"]["kernel"]
    )


def test_a_tree_that_is_not_there(run, tmp_path):
    folder, _ = run
    with pytest.raises(UserError, match="no nothing/: the checkpoint is incomplete"):
        leaves.stored(epath.Path(folder / "checkpoints" / "1"), "nothing")
    tiny.make_run(tmp_path, steps=(1,))
    found = epath.Path(tmp_path / "checkpoints" / "1")
    (found / "params" / "_METADATA").write_text("{")
    with pytest.raises(Damaged):
        leaves.stored(found, "params")
    (found / "opt_state").rmtree()
    with pytest.raises(UserError, match="weights alone, no optimizer state"):
        leaves.stored(found, "opt_state")


@given(st.lists(st.integers(0, 30)), st.integers(1, 40))
def test_groups_hold_every_leaf_once_and_no_more_than_fits(sizes, limit):
    byte = np.dtype(np.uint8)
    have = {str(n): Leaf((size,), byte, (size,)) for n, size in enumerate(sizes)}
    groups = list(stream.leaf_groups(have, limit))
    assert [path for group in groups for path in group] == list(have)
    for group in groups:
        assert len(group) == 1 or sum(have[path].bytes for path in group) <= limit
    for one, two in itertools.pairwise(groups):  # no group ends early
        assert sum(have[path].bytes for path in one) + have[two[0]].bytes > limit
