"""Whether a checkpoint restores, and what that takes: against JAX's own shardings of real devices."""

import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from tests.checkpoint import tiny
from transformer.checkpoint import CheckpointConfig, Checkpoints, doctor, leaves, to_json
from transformer.checkpoint.leaves import Leaf
from transformer.data.images.config import ImagesConfig
from transformer.errors import UserError
from transformer.models import architecture_to_dict
from transformer.models.bert import BertConfig
from transformer.models.vit import ViTConfig
from transformer.objectives.image_classification import ImageClassification
from transformer.parallel.layout import param_shardings
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.training.dividing import check_batch
from transformer.training.experiment import Experiment, TrainConfig

_FLOAT = np.dtype(np.float32)


def _leaf(*shape):
    return Leaf(shape, _FLOAT, shape)


def test_the_same_arrays_in_another_dtype_restore():
    have = {"a/kernel": Leaf((2, 3), np.dtype(np.float16), (1, 3)), "b": _leaf()}
    assert doctor.mismatches(have, {"a/kernel": _leaf(2, 3), "b": _leaf()}) == {}


def test_what_is_missing_unexpected_or_of_another_shape_is_named():
    have = {"same": _leaf(1), "wide": _leaf(4, 8), "stack/mlp/up/weight": _leaf(4, 9), "gone": _leaf(7)}
    need = {"same": _leaf(1), "wide": _leaf(4, 16), "stack/mlp/up/kernel": _leaf(4, 9), "head/out/bias": _leaf(5)}
    assert doctor.mismatches(have, need) == {
        "wide": "shape       wide: [4, 8] in the checkpoint, [4, 16] needed",
        "stack/mlp/up/kernel": "missing     stack/mlp/up/kernel: float32 [4, 9] needed; the nearest name: "
        "stack/mlp/up/weight, float32 [4, 9]",
        "head/out/bias": "missing     head/out/bias: float32 [5] needed",
        "stack/mlp/up/weight": "unexpected  stack/mlp/up/weight: float32 [4, 9] in the checkpoint; the nearest name: "
        "stack/mlp/up/kernel, float32 [4, 9]",
        "gone": "unexpected  gone: float32 [7] in the checkpoint",
    }


def test_a_name_of_the_same_shape_is_nearer_than_a_nearer_name():
    have = {"layer/queries/kernel": _leaf(4, 2), "layer/query_/kernel": _leaf(3, 3)}
    [line] = [
        line for line in doctor.mismatches(have, {"layer/query/kernel": _leaf(4, 2)}).values() if "missing" in line
    ]
    assert line.endswith("the nearest name: layer/queries/kernel, float32 [4, 2]")


@pytest.mark.parametrize("sizes", list(itertools.product((1, 2, 3, 8), (1, 2, 4))))
def test_the_mesh_is_judged_as_a_restore_judges_it(sizes):
    mesh: Any = doctor.abstract_mesh(MeshConfig(data=1, fsdp=sizes[0], tensor=sizes[1]))
    lines = doctor.undivided(tiny.MODEL, mesh)
    refused = ""
    try:
        param_shardings(tiny.MODEL.abstract_params(), mesh)
    except UserError as error:
        refused = str(error)
    assert bool(lines) == bool(refused)
    assert not lines or any(f"parameter {line.split(maxsplit=1)[1]}" == refused for line in lines)


@settings(max_examples=300)
@given(st.data())
def test_bytes_are_those_of_jaxs_own_layout(data):
    """Device by device and piece by piece, from the slices that JAX gives each device."""
    mesh_config = MeshConfig(
        **data.draw(st.sampled_from([{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "fsdp": 8}]))
    )
    mesh = make_mesh(mesh_config)
    axes = data.draw(st.permutations(["data", "fsdp", "tensor"]))
    entries = data.draw(
        st.sampled_from([(axes[0], axes[1]), (None, (axes[0], axes[1])), (tuple(axes), None), (), (axes[2],)])
    )
    shape = tuple(8 * data.draw(st.integers(1, 3)) for _ in range(2))
    piece = tuple(data.draw(st.integers(1, size)) for size in shape)
    per_host = data.draw(st.sampled_from([1, 2, 4, 8]))
    sharding = NamedSharding(mesh, PartitionSpec(*entries))
    parts = [sharding.devices_indices_map(shape)[device] for device in mesh.devices.flat]

    reads = []
    for host in range(8 // per_host):
        needed = np.zeros(shape, bool)
        for part in parts[host * per_host : (host + 1) * per_host]:
            needed[part] = True
        corners = itertools.product(*(range(0, size, step) for size, step in zip(shape, piece, strict=True)))
        blocks = [needed[x : x + piece[0], y : y + piece[1]] for x, y in corners]
        reads.append(sum(4 * block.size for block in blocks if block.any()))

    abstract = {"a": jax.ShapeDtypeStruct(shape, _FLOAT, sharding=sharding)}
    found = doctor.cost({"a": Leaf(shape, _FLOAT, piece)}, abstract, per_host)
    device = 4 * np.zeros(shape)[parts[0]].size
    assert found == doctor.Cost(4 * math.prod(shape), device, device * per_host, max(reads))
    assert doctor.cost({}, abstract, per_host).read == 0


def test_nothing_is_allocated_on_a_mesh_larger_than_this_machine(run):
    folder, _ = run
    found = epath.Path(folder / "checkpoints" / "3")
    mesh = doctor.abstract_mesh(MeshConfig(data=512, fsdp=8, tensor=2))
    before = len(jax.live_arrays())

    def aim(on):
        abstract = tiny.program(on).abstract
        return {"params": abstract.params, "opt_state": abstract.opt_state}

    result = doctor.diagnose(found, tiny.MODEL, mesh, aim, needed=["params"], devices_per_host=8)
    assert result.problems == []
    assert result.lines[-1] == "restores"
    assert len(jax.live_arrays()) == before
    need = leaves.stored(found, "params")
    weights = next(line for line in result.lines if line.startswith("weights")).split()
    assert weights[1:3] == [f"{leaves.total_bytes(need) / 1000:.3g}", "kB"]


def test_lengths_are_judged_as_training_judges_them(tmp_path):
    """An image's 4 patches and class token are divided by 5 devices along `sequence`, and by no 3."""
    model = ViTConfig(
        image_size=4, patch_size=2, channels=1, width=8, num_layers=1, num_heads=2, mlp_width=8, num_labels=2
    )
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), nn.meta.unbox(model.abstract_params()))
    record = tiny.RECORD | {"architecture.json": to_json(architecture_to_dict(model))}
    with Checkpoints(tmp_path, CheckpointConfig()) as checkpoints:
        checkpoints.save(1, params=params, opt_state={"count": np.zeros(1)}, data={"step": 1}, record=record)
        outcome = checkpoints.outcome(wait=True)
    assert outcome is not None
    assert outcome.failure is None

    def aim(mesh):
        def struct(leaf, sharding):
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return {"params": jax.tree.map(struct, params, param_shardings(model.abstract_params(), mesh))}

    def problems(sequence):
        mesh = doctor.abstract_mesh(MeshConfig(sequence=sequence))
        found = epath.Path(tmp_path / "1")
        return doctor.diagnose(found, model, mesh, aim, needed=["params"], devices_per_host=1).problems

    experiment = Experiment(
        name="tiny", model=model, objective=ImageClassification(), data=ImagesConfig(), train=TrainConfig(batch_size=8)
    )
    with pytest.raises(UserError, match="5 places of an image") as refused:
        check_batch(experiment, doctor.abstract_mesh(MeshConfig(sequence=3)))
    assert problems(3) == [f"mesh        {refused.value}"]
    check_batch(experiment, doctor.abstract_mesh(MeshConfig(sequence=5)))
    assert problems(5) == []


def test_each_fault_of_another_architecture_is_told_once(run):
    folder, _ = run
    found = epath.Path(folder / "checkpoints" / "3")
    model = BertConfig(vocab_size=32, context_length=8, width=8, num_layers=2, num_heads=2, mlp_width=16, dropout=0.0)
    params = nn.meta.unbox(model.abstract_params())
    trees = {"params": params, "opt_state": {"opt_state": {"mu": params}, "step": jax.ShapeDtypeStruct((), np.int32)}}
    mesh = doctor.abstract_mesh(MeshConfig(fsdp=3))
    result = doctor.diagnose(found, model, mesh, lambda _: trees, needed=list(trees), devices_per_host=1)
    text = "\n".join(result.lines)
    assert "family 'bert' in place of 'gpt'" in text
    assert "a host reads" not in text  # the mesh does not divide: there is no layout
    assert result.lines[-1] == f"does not restore: {len(result.problems)} problems"
    norms = [line.split()[0] for line in result.problems if "head/norm/bias: " in line]
    assert norms == ["mesh", "missing"]  # and not that of the optimizer
    assert any(line.startswith("unexpected  opt_state/1/0/count") for line in result.problems)


def test_hosts_divide_the_mesh():
    mesh = doctor.abstract_mesh(MeshConfig(fsdp=6))
    abstract = {"a": jax.ShapeDtypeStruct((6,), _FLOAT, sharding=NamedSharding(mesh, PartitionSpec("fsdp")))}
    with pytest.raises(UserError, match="no whole number of hosts with 4 each: give --devices-per-host"):
        doctor.cost({}, abstract, 4)
    with pytest.raises(UserError, match="tensor is 0"):
        MeshConfig(tensor=0)
