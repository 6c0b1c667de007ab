"""Checkpoints made of others: averages, casts, other pieces; and nothing half-made."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from etils import epath
from flax.traverse_util import flatten_dict

from tests.checkpoint import tiny
from transformer import checkpoint
from transformer.checkpoint import Checkpoints, Damaged, doctor, leaves, rewrite, stream
from transformer.checkpoint import prune as pruning
from transformer.errors import UserError
from transformer.models import architecture_to_dict
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.transfer import weights as transfer
from transformer.transfer.config import InitConfig


@pytest.fixture
def sources(run):
    folder, _ = run
    return [epath.Path(folder / "checkpoints" / step) for step in ("1", "2", "3")]


def test_an_average_is_numpys_mean(run, sources, tmp_path, monkeypatch):
    monkeypatch.setattr(rewrite, "leaf_groups", functools.partial(stream.leaf_groups, limit=2048))
    _, saved = run
    place = rewrite.average(sources, tmp_path / "mean")
    assert place == epath.Path(tmp_path / "mean" / "checkpoints" / "3")
    trees = [flatten_dict(saved[step][0], sep="/") for step in (1, 2, 3)]
    for path, found in flatten_dict(tiny.params_of(tmp_path / "mean"), sep="/").items():
        wanted = np.mean(np.stack([np.asarray(tree[path]) for tree in trees]), axis=0, dtype=np.float32)
        np.testing.assert_array_equal(found, wanted, err_msg=path)
    record = place / "record"
    for name, content in tiny.RECORD.items():
        assert (record / name).read_bytes() == content
    by = json.loads((record / "written_by.json").read_text())
    assert by["sources"] == [str(source) for source in sources]
    assert by["versions"]["jax"] == jax.__version__
    assert leaves.trees(place) == ["params"]
    assert checkpoint.verify(place) == []


@pytest.mark.exhaustive
def test_an_average_holds_one_group_of_one_source(sources, tmp_path, monkeypatch):
    held = []
    read = stream.read_leaves

    def watched(source, tree, paths):
        held.append((source.name, len(paths)))
        return read(source, tree, paths)

    monkeypatch.setattr(rewrite, "read_leaves", watched)
    monkeypatch.setattr(rewrite, "leaf_groups", functools.partial(stream.leaf_groups, limit=2048))
    rewrite.average(sources, tmp_path / "mean")
    assert [name for name, _ in held[:4]] == ["1", "2", "3", "1"]
    assert max(number for _, number in held) < len(leaves.stored(sources[0], "params"))


def test_a_cast_rounds_to_the_nearest_and_is_read_as_ever(run, sources, tmp_path):
    _, saved = run
    place = rewrite.cast(sources[2], tmp_path / "small", "bfloat16")
    assert {str(leaf.dtype) for leaf in leaves.stored(place, "params").values()} == {"bfloat16"}
    wanted = flatten_dict(saved[3][0], sep="/")
    for path, found in flatten_dict(tiny.params_of(tmp_path / "small"), sep="/").items():
        rounded = np.asarray(wanted[path]).astype(ml_dtypes.bfloat16).astype(np.float32)
        np.testing.assert_array_equal(found, rounded, err_msg=path)
    assert checkpoint.verify(place) == []
    transfer.planned(InitConfig(str(tmp_path / "small")), tiny.EXPERIMENT.model)  # refuses what does not fit


def test_a_number_that_does_not_fit_is_refused(tmp_path):
    params = {"head": {"kernel": jnp.array([1.0, 70000.0, jnp.inf])}}
    checkpoint.save_params(tmp_path / "run" / "checkpoints" / "1", params, tiny.RECORD)
    source = epath.Path(tmp_path / "run" / "checkpoints" / "1")
    with pytest.raises(UserError, match="head/kernel has numbers that float16 cannot hold"):
        rewrite.cast(source, tmp_path / "new", "float16")
    assert not (tmp_path / "new").exists()
    rewrite.cast(source, tmp_path / "new", "bfloat16")


def _state_on(mesh):
    abstract = tiny.program(mesh).abstract
    return {"params": abstract.params, "opt_state": dataclasses.replace(abstract, params=None)}


@pytest.mark.exhaustive
def test_resharded_pieces_are_the_devices_own_and_the_run_goes_on(run, sources, tmp_path):
    _, saved = run
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    abstract = _state_on(mesh)
    read = []
    place = rewrite.reshard(sources[2], tmp_path / "new", abstract, read.append)
    assert sum(read) == sum(array.nbytes for array in jax.tree.leaves(saved[3]))
    assert checkpoint.verify(place) == []
    for name, tree in abstract.items():
        have = leaves.stored(place, name)
        shardings = {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf.sharding.shard_shape(leaf.shape)
            for path, leaf in jax.tree.leaves_with_path(tree)
        }
        for path, leaf in have.items():
            assert leaf.piece == shardings[path], path
    # The result is a run, whose state is the one that was saved, on this mesh and on another.
    for aim in (abstract, _state_on(make_mesh(MeshConfig(data=1)))):
        with Checkpoints(tmp_path / "new" / "checkpoints") as checkpoints:
            params, rest, _ = checkpoints.restore(3, **aim)
        jax.tree.map(np.testing.assert_array_equal, (params, rest), saved[3])
    position = json.loads((place / "data" / "position.json").read_text())
    assert position == {"step": 3}
    for name in ("experiment.json", "architecture.json", "tokenizer/tokenizer.json", "metrics.jsonl"):
        assert (tmp_path / "new" / name).read_bytes() == (sources[0].parent.parent / name).read_bytes()


def test_a_host_reads_its_own_bytes_alone_once_resharded(sources, tmp_path):
    config = MeshConfig(data=1, fsdp=4, tensor=2)
    place = rewrite.reshard(sources[2], tmp_path / "new", {"params": _state_on(make_mesh(config))["params"]})
    aim = _state_on(doctor.abstract_mesh(config))["params"]
    before, after = (doctor.cost(leaves.stored(path, "params"), aim, 1) for path in (sources[2], place))
    assert before.read == before.total
    assert after.read == after.device < before.read / 4
    assert leaves.trees(place) == ["params"]


def test_different_architectures_are_not_averaged(sources, tmp_path):
    other = dataclasses.replace(tiny.MODEL, context_length=16)
    record = tiny.RECORD | {"architecture.json": checkpoint.to_json(architecture_to_dict(other))}
    checkpoint.save_params(tmp_path / "other", {"head": jnp.zeros(3)}, record)
    with pytest.raises(UserError, match="different architectures: context_length 8 and 16"):
        rewrite.average([sources[0], epath.Path(tmp_path / "other")], tmp_path / "new")
    record = tiny.RECORD | {"tokenizer/tokenizer.json": b'{"other": 1}'}
    checkpoint.save_params(tmp_path / "words", {"head": jnp.zeros(3)}, record)
    with pytest.raises(UserError, match="words have different tokenizers"):
        rewrite.average([sources[0], epath.Path(tmp_path / "words")], tmp_path / "new")
    with pytest.raises(UserError, match="two checkpoints or more"):
        rewrite.average(sources[:1], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_damaged_source_makes_nothing(tmp_path):
    tiny.make_run(tmp_path / "run", steps=(1, 2))
    sources = [epath.Path(tmp_path / "run" / "checkpoints" / step) for step in ("1", "2")]
    tiny.damage(tmp_path / "run" / "checkpoints" / "1")
    with pytest.raises(Damaged):
        rewrite.average(sources, tmp_path / "new")
    with pytest.raises(Damaged):
        rewrite.reshard(sources[0], tmp_path / "new", _state_on(make_mesh(MeshConfig(data=1))))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("failing", ["save", "seal"])
def test_nothing_half_written_stays(sources, tmp_path, monkeypatch, failing):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    if failing == "seal":
        monkeypatch.setattr("transformer.checkpoint.checkpoints.seal", fail)
        monkeypatch.setattr("transformer.checkpoint.rewrite.seal", fail)
    else:
        from orbax.checkpoint import v1 as ocp

        monkeypatch.setattr(ocp, "save_checkpointables", fail)
    with pytest.raises(UserError, match="could not be written: .*No space left"):
        rewrite.cast(sources[0], tmp_path / "new", "bfloat16")
    with pytest.raises(UserError, match="could not be written: .*No space left"):
        rewrite.reshard(sources[0], tmp_path / "new", _state_on(make_mesh(MeshConfig(data=1))))
    assert not (tmp_path / "new").exists()


def test_what_is_there_is_not_written_over(sources, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty"):
        rewrite.average(sources, tmp_path / "old")
    with pytest.raises(UserError, match="exists and is not empty"):
        rewrite.cast(sources[0], sources[0].parent.parent, "bfloat16")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["file"]


def test_prune_keeps_the_newest_unless_it_is_named(tmp_path):
    tiny.make_run(tmp_path)

    def chosen(**asked):
        return [path.name for path in pruning.choose(tmp_path, **{"keep": (), "drop": (), **asked})]

    assert chosen(keep=(1,)) == ["2"]
    assert chosen(keep=(1, 3)) == ["2"]
    assert chosen(keep=(3,)) == ["1", "2"]
    assert chosen(drop=(3,)) == ["3"]
    for asked, words in [
        ({"keep": (7,)}, "has no step 7; it has 1, 2, 3"),
        ({"drop": (1, 2, 3)}, "no checkpoint would be left"),
        ({}, "either --keep STEPS or --drop STEPS"),
        ({"keep": (1,), "drop": (2,)}, "either --keep STEPS or --drop STEPS"),
    ]:
        with pytest.raises(UserError, match=words):
            chosen(**asked)
    for path in pruning.choose(tmp_path, keep=(2,), drop=()):
        pruning.remove(path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
    with pytest.raises(UserError, match="no checkpoint here"):
        pruning.choose(tmp_path / "nowhere", keep=(1,), drop=())


def test_a_checkpoint_whose_removal_is_cut_short_is_none(tmp_path, monkeypatch):
    tiny.make_run(tmp_path, steps=(1, 2))

    def killed(_):
        raise KeyboardInterrupt

    path = epath.Path(tmp_path / "checkpoints" / "2")
    with monkeypatch.context() as patched:
        patched.setattr(type(path), "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            pruning.remove(path)
    assert checkpoint.find(tmp_path).name == "1"
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:  # which clears it away
        assert checkpoints.steps == [1]
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["1"]
