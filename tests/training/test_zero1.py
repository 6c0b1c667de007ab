"""ZeRO-1: the optimizer's moments are split over `data`, parameters are not, and nothing else changes."""

import dataclasses
import math

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.exhaustive import few
from tests.tiny_experiments import batch_of, experiment_of
from tests.tiny_models import TINY, random_params
from transformer.debugging.parallel_check import Reference
from transformer.models.llama import LlamaConfig
from transformer.parallel.layout import spread
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.training.optimizer import OptimizerConfig
from transformer.training.program import Program

LLAMA_1B = LlamaConfig(
    vocab_size=32000, context_length=2048, width=2048, num_layers=22, num_heads=32, num_kv_heads=4, head_width=64,
    mlp_width=5632,
)  # fmt: skip


def bytes_a_device(tree):
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (4, 2), (1, 8)])
def test_memory_of_a_device(data, fsdp):
    """Weights take a part of fsdp's, moments one of both's, within a percent: of 1.1 billion parameters."""
    experiment = experiment_of(LLAMA_1B)
    experiment = dataclasses.replace(experiment, mesh=MeshConfig(data=data, fsdp=fsdp, zero1=True))
    state = Program(experiment, make_mesh(experiment.mesh)).abstract
    weights = 4 * LLAMA_1B.num_params()
    assert bytes_a_device(state.params) == pytest.approx(weights / fsdp, rel=0.01)
    assert bytes_a_device(state.opt_state) == pytest.approx(2 * weights / 8, rel=0.01)


@pytest.mark.parametrize("name", few(["adamw", "adafactor", "lion", "muon", "lamb"]))
def test_any_optimizer_makes_the_update_of_one_device(name):
    model = TINY["llama"]
    experiment = experiment_of(model, optimizer=OptimizerConfig(name=name, schedule="constant", warmup_steps=0))
    reference = Reference(experiment, [batch_of(model)], random_params(model))
    assert reference.compare(MeshConfig(data=4, tensor=2, zero1=True)).first is None


@given(st.lists(st.sampled_from([1, 2, 3, 4, 6, 8, 16]), min_size=1, max_size=3), st.integers(0, 3))
def test_the_axis_splits_one_dimension_wherever_one_divides(shape, split):
    """Layers last, for a loop goes over them; and never one that does not divide."""
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    names = ("layers", "embed", "mlp")[: len(shape)]
    spec: list[str | None] = [None] * len(shape)
    if split < len(shape) and shape[split] % 2 == 0:
        spec[split] = "fsdp"
    own = NamedSharding(mesh, P(*spec))
    local = own.shard_shape(tuple(shape))
    new = spread(own, names, shape, "data").shard_shape(tuple(shape))
    changed = [dim for dim in range(len(shape)) if new[dim] != local[dim]]
    divisible = [dim for dim in range(len(shape)) if local[dim] % 4 == 0]
    assert len(changed) == bool(divisible)
    if changed:
        assert changed[0] in divisible
        assert new[changed[0]] * 4 == local[changed[0]]
        assert changed != [0] or divisible == [0]
