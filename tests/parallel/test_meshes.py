"""No mesh changes the numbers: all axes, all pairs and some triples, against one device; and a fault is found."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from tests.exhaustive import few
from tests.tiny_experiments import batch_of, experiment_of
from tests.tiny_models import TINY, random_params
from transformer.debugging.parallel_check import (
    Difference,
    Reference,
    Verdict,
    blamed,
    checked,
    meshes,
    share,
    without_dropout,
)
from transformer.layers.execution import Execution
from transformer.layers.experts_config import ExpertsConfig
from transformer.objectives import objective as objectives
from transformer.ops.attention import Mask
from transformer.parallel.mesh import MESH_AXES, MeshConfig

EXPERTS = ExpertsConfig(num_experts=4, experts_per_token=2, mlp_width=8, balance_loss=0.02, z_loss=0.001)
# What the matrix is of: an experiment, and what its batches have.
CASES = {
    "decoder": (experiment_of(dataclasses.replace(TINY["llama"], num_layers=4)), {}),  # packed, windowed
    "prefix": (experiment_of(dataclasses.replace(TINY["gpt"], num_layers=4)), {"prefix": True}),  # dense and banded
    "encoder": (
        experiment_of(dataclasses.replace(TINY["bert"], num_layers=4, dropout=0.1, attention_dropout=0.1)),
        {},
    ),
    "encoder_decoder": (experiment_of(dataclasses.replace(TINY["t5"], num_encoder_layers=2)), {}),
    "experts": (experiment_of(dataclasses.replace(TINY["olmoe"], experts=EXPERTS)), {}),
}
UPDATES = 3


@functools.cache
def reference_of(case):
    experiment, options = CASES[case]
    batches = [batch_of(experiment.model, seed, **options) for seed in range(UPDATES)]
    return Reference(experiment, batches, random_params(experiment.model))


# All pairs, each axis alone, and triples of a decoder; of the others, pairs with the axes that are written by hand (the
# compiler's own, all three at once, are in tests/models/test_mesh.py; pipelines of each kind of stack are in
# tests/parallel/test_pipeline.py). A prefix, and rows that are read from both sides, matter to the axis that cuts rows.
AXES = {"decoder": set(MESH_AXES), "experts": {"expert"}}
MATRIX = [(case, 2) for case in CASES] + [("decoder", 1), ("decoder", 3), ("experts", 3)]


def verdicts_of(case, number_of_axes):
    """The verdicts on the meshes of so many axes; a mesh that does not divide the model is not tried."""
    chosen = [verdict for verdict in meshes(CASES[case][0], 8) if len(verdict.axes) == number_of_axes]
    chosen = [verdict for verdict in chosen if verdict.axes & AXES.get(case, {"sequence"})]
    return [checked(reference_of(case), verdict) for verdict in chosen]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("case", "number_of_axes"), MATRIX)
def test_no_mesh_changes_the_numbers(case, number_of_axes):
    verdicts = verdicts_of(case, number_of_axes)
    tried = [verdict for verdict in verdicts if verdict.difference is not None]
    assert not [(verdict.name, verdict.difference) for verdict in tried if verdict.differs]
    least = {1: 6, 2: {"decoder": 12}.get(case, 3), 3: {"decoder": 3}.get(case, 2)}[number_of_axes]
    assert len(tried) >= least, [verdict.refusal for verdict in verdicts]


@pytest.mark.parametrize(
    "mesh",
    few(
        [
            MeshConfig(data=2, fsdp=2, tensor=2, zero1=True),
            MeshConfig(data=1, pipeline=2, sequence=2, expert=2),
            MeshConfig(data=2, pipeline=2, tensor=2, zero1=True),
        ],
        MeshConfig(data=2, pipeline=2, tensor=2, zero1=True),
    ),
    ids=str,
)
def test_all_axes_leave_the_numbers_of_a_decoder_as_they_are(mesh):
    assert reference_of("decoder").compare(mesh).first is None


@pytest.mark.exhaustive
def test_dropout_is_compared_but_where_a_ring_deals_tokens_in_another_order():
    model = dataclasses.replace(TINY["gpt"], dropout=0.1)
    execution = Execution(dtype="float32", context="ring")
    reference = Reference(experiment_of(model, execution=execution), [batch_of(model)])
    assert reference.compare(MeshConfig(data=1, sequence=2)).first is None
    undropped = Reference(without_dropout(experiment_of(model)), [batch_of(model)])
    assert undropped.outcome.losses != reference.outcome.losses


def test_the_meshes_are_all_axes_and_all_pairs():
    found = {verdict.axes for verdict in meshes(CASES["decoder"][0], 8)}
    assert {frozenset([axis]) for axis in MESH_AXES} <= found
    assert {frozenset([a, b]) for a in MESH_AXES for b in MESH_AXES if a != b} <= found


def test_a_mask_that_ignores_segments_is_found(monkeypatch):
    """At what comes first, the loss."""
    dense = Mask.dense

    def ignoring(self, *lengths):
        if jax.sharding.get_abstract_mesh().shape.get("sequence", 1) > 1:
            self = self.replace(q_segment_ids_BT=None)
        return dense(self, *lengths)

    monkeypatch.setattr(Mask, "dense", ignoring)
    part, path, share = reference_of("decoder").compare(MeshConfig(data=1, sequence=2)).first
    assert (part, path) == ("loss", "update 1")
    assert share > 1e-3


@pytest.mark.exhaustive
def test_a_reduction_left_out_is_found(monkeypatch):
    """The first device's sum of losses passes for that of all; meshes without `data` are as they were."""
    whole = objectives.cross_entropy

    def unreduced(hidden, kernel, targets, weights, *, bias, **settings):
        if jax.sharding.get_abstract_mesh().shape.get("data", 1) == 1:
            return whole(hidden, kernel, targets, weights, bias=bias, **settings)
        local = functools.partial(whole, bias=bias, **settings)
        specs = (P("data"), P(), P("data"), P("data"))
        split = jax.shard_map(local, in_specs=specs, out_specs=P(), axis_names={"data"}, check_vma=False)
        return split(hidden, kernel, targets, weights)

    monkeypatch.setattr(objectives, "cross_entropy", unreduced)
    tried = [MeshConfig(data=2), MeshConfig(data=1, fsdp=2), MeshConfig(data=2, fsdp=2)]
    verdicts = [checked(reference_of("decoder"), Verdict(mesh, None)) for mesh in tried]
    assert [verdict.differs for verdict in verdicts] == [True, False, True]
    assert [verdict.name for verdict in blamed(verdicts)] == ["data 2"]


@pytest.mark.exhaustive
def test_a_gradient_that_is_not_summed_is_found(monkeypatch):
    """The loss is right, and so is all but one tensor's gradient, which each part of `fsdp` keeps to itself."""

    @jax.custom_vjp
    def kept(x):
        return x

    def backward(_, gradient):
        split = jax.sharding.get_abstract_mesh().shape.get("fsdp", 1)
        return (gradient / split,)

    kept.defvjp(lambda x: (x, None), backward)
    whole = objectives.cross_entropy
    monkeypatch.setattr(
        objectives, "cross_entropy", lambda hidden, kernel, *rest, **named: whole(hidden, kept(kernel), *rest, **named)
    )
    found = reference_of("decoder").compare(MeshConfig(data=1, fsdp=2))
    assert found.worst["loss"] < 1e-5
    assert found.first[:2] == ("gradients", "head/kernel")
    assert found.worst["update"] < 1e-5  # which is compared with what follows from the mesh's own gradients


def test_the_simplest_meshes_are_blamed():
    def verdict(differs, **sizes):
        first = ("loss", "update 1", 1.0) if differs else None
        return Verdict(MeshConfig(**{"data": 1, **sizes}), Difference({}, first))

    verdicts = [
        verdict(False, data=2),
        verdict(True, data=2, zero1=True),
        verdict(True, tensor=2),
        verdict(True, fsdp=2, tensor=2),
        verdict(True, fsdp=2, sequence=2),
    ]
    assert [one.name for one in blamed(verdicts)] == ["data 2, zero1", "tensor 2", "fsdp 2 x sequence 2"]


def test_shares_are_of_a_tensor_s_size():
    assert share(np.array([1.0, 0.0]), np.array([1.0, 1e-3]), 0.0) == pytest.approx(1e-3)
    assert share(np.array([1e-9]), np.array([-1e-9]), 1e-2) == pytest.approx(2e-7)  # noise of a gradient that is zero
    assert share(np.array([np.nan]), np.array([1.0]), 0.0) == np.inf
    assert share(np.array([np.inf]), np.array([np.inf]), 0.0) == 0
