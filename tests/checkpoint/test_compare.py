"""Two checkpoints side by side."""

import dataclasses
import math

import jax
import ml_dtypes
import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.checkpoint import tiny
from transformer import checkpoint
from transformer.checkpoint import compare as compare_
from transformer.checkpoint import rewrite
from transformer.checkpoint.compare import compare, differing_fields, largest_difference
from transformer.models import architecture_to_dict

_FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(arrays.arrays(np.float32, (2, 7), elements=_FLOATS), arrays.arrays(np.float32, (2, 7), elements=_FLOATS))
def test_the_largest_difference_is_that_of_the_elements_one_by_one(x, y):
    def difference(a: float, b: float) -> float:
        return 0.0 if a == b or (math.isnan(a) and math.isnan(b)) else abs(a - b)

    each = [difference(float(a), float(b)) for a, b in zip(x.flat, y.flat, strict=True)]
    wanted = math.nan if any(map(math.isnan, each)) else max(each)
    np.testing.assert_array_equal(largest_difference(x, y), wanted)


def test_the_blocks_of_a_large_array_all_count(monkeypatch):
    monkeypatch.setattr(compare_, "_BLOCK", 4)
    x = np.zeros(13, np.float32)
    for place in range(13):
        y = x.copy()
        y[place] = -2
        assert largest_difference(x, y) == 2
    assert math.isnan(largest_difference(x, np.where(np.arange(13) == 1, np.nan, x)))
    assert largest_difference(x.astype(ml_dtypes.bfloat16), y) == 2
    assert largest_difference(np.zeros((), np.int32), np.full((), 3, np.int32)) == 3
    assert largest_difference(np.zeros((0, 3)), np.zeros((0, 3))) == 0


def test_fields_that_one_lacks_differ_even_from_none():
    a, b = {"x": {"y": 1, "z": None}, "w": 2}, {"x": {"y": 3}, "w": 2}
    assert differing_fields(a, b) == {"x.y": (1, 3), "x.z": (None, None)}


def test_a_run_and_itself_are_equal_and_two_steps_are_not(run):
    folder, saved = run
    one, two = (epath.Path(folder / "checkpoints" / step) for step in ("1", "2"))
    read = []
    assert compare(one, one, read.append).equal
    assert sum(read) == sum(array.nbytes for array in jax.tree.leaves(saved[1]))
    found = compare(one, two)
    assert not found.equal
    assert found.fields == {"position.step": (1, 2)}
    path = ("backbone", "stack", "layers", "mlp", "up", "kernel")
    ours, theirs = saved[1][0], saved[2][0]
    for name in path:
        ours, theirs = ours[name], theirs[name]
    wanted = np.abs(np.asarray(ours, np.float64) - np.asarray(theirs)).max()
    assert found.largest[f"params/{'/'.join(path)}"] == wanted
    assert list(found.differing.values()) == sorted(found.differing.values(), reverse=True)


def test_everything_that_can_differ_is_told_apart(run, tmp_path):
    folder, saved = run
    found = epath.Path(folder / "checkpoints" / "3")
    other = dataclasses.replace(tiny.MODEL, width=16, mlp_width=32)
    params = {**saved[3][0], "more": {"kernel": jax.numpy.zeros((3,))}}
    params["backbone"] = {**params["backbone"], "position_embedding": {"embedding": jax.numpy.zeros((8, 16))}}
    del params["backbone"]["final_norm"]
    record = tiny.RECORD | {"architecture.json": checkpoint.to_json(architecture_to_dict(other))}
    record |= {"tokenizer/tokenizer.json": b"{ }", "huggingface/config.json": b"{}"}
    del record["experiment.json"]
    checkpoint.save_params(tmp_path / "1", params, record)
    result = compare(found, epath.Path(tmp_path / "1"))
    assert {path for path in result.only_a if path.startswith("params/")} == {
        "params/backbone/final_norm/bias",
        "params/backbone/final_norm/scale",
    }
    assert any(path.startswith("opt_state/") for path in result.only_a)
    assert set(result.only_b) == {"params/more/kernel"}
    shapes = {path: (ours.shape, theirs.shape) for path, (ours, theirs) in result.mismatched.items()}
    assert shapes == {"params/backbone/position_embedding/embedding": ((8, 8), (8, 16))}
    assert result.fields["architecture.width"] == (8, 16)
    assert result.fields["experiment.train.steps"] == (4, None)
    assert result.files == ["huggingface/config.json", "tokenizer/tokenizer.json"]
    assert not result.differing  # the arrays that were left alone


def test_another_dtype_is_a_difference_and_its_rounding_is_measured(run, tmp_path):
    folder, _ = run
    found = epath.Path(folder / "checkpoints" / "3")
    place = rewrite.cast(found, tmp_path / "cast", "bfloat16")
    result = compare(found, place)
    ours, theirs = result.mismatched["params/backbone/token_embedding/embedding"]
    assert (str(ours.dtype), str(theirs.dtype)) == ("float32", "bfloat16")
    differences = [value for path, value in result.largest.items() if path.startswith("params/")]
    assert 0 < max(differences) < 0.125  # half a step of bfloat16 between 16 and 32 is 0.0625
    tiny.damage(tmp_path / "cast" / "checkpoints" / "3")
    with pytest.raises(checkpoint.Damaged):
        compare(found, place)
