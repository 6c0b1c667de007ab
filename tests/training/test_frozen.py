"""Frozen arrays: arguments of the compiled functions, laid out on the mesh, loaded once and never donated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.exhaustive import few
from tests.training.test_program import MODEL, experiment_of, make_batch
from transformer.parallel.layout import abstract_on, batch_sharding
from transformer.parallel.mesh import MeshConfig, make_mesh
from transformer.planning.step import bytes_of
from transformer.training.frozen import FrozenArrays, Part
from transformer.training.program import Program


class Pulled(Program):
    """Adds to the loss half the squared distance of the weights from frozen ones, "anchor"."""

    def _loss(self, params, batch, frozen, key, whole=None):
        loss_sum, sums = super()._loss(params, batch, frozen, key, whole)
        apart = jax.tree.map(lambda a, b: jnp.square(a - b).sum(), params, frozen["anchor"])
        return loss_sum + 0.5 * sums.weight * jax.tree.reduce(jnp.add, apart), sums


def pulled(mesh_config, loads):
    experiment, mesh = experiment_of(), make_mesh(mesh_config)
    abstract = abstract_on(MODEL.abstract_params(), mesh)

    def load():
        loads.append(1)
        place = lambda leaf: jax.device_put(np.full(leaf.shape, 0.1, leaf.dtype), leaf.sharding)  # noqa: E731
        return jax.tree.map(place, abstract)

    return Pulled(experiment, mesh, frozen=FrozenArrays({"anchor": Part(abstract, load)})), mesh


MESHES = [MeshConfig(data=1), MeshConfig(fsdp=2, tensor=2)]


@pytest.mark.parametrize("mesh_config", few(MESHES, MESHES[0]))
def test_a_step_reads_frozen_arrays_and_leaves_them(mesh_config):
    loads: list[int] = []
    program, mesh = pulled(mesh_config, loads)
    plain = Program(experiment_of(), mesh)
    with jax.set_mesh(mesh):
        batch = jax.device_put(make_batch(0), batch_sharding(mesh))
        state = program.init()
        assert not loads  # nothing is loaded before an update asks for it
        params, weight = jax.device_get(state.params), batch["weights"].sum()
        apart = sum(np.square(leaf - np.float32(0.1)).sum(dtype=np.float64) for leaf in jax.tree.leaves(params))
        loss_sum, _, grads = jax.jit(program.gradients)(state, batch, program.frozen)
        want_sum, _, want = jax.jit(plain.gradients)(state, batch, plain.frozen)
        _, metrics = program.step(state, batch)
        _, again = program.step(program.init(), batch)
    np.testing.assert_allclose(loss_sum, want_sum + 0.5 * weight * apart, rtol=1e-5)
    jax.tree.map(lambda g, w, p: np.testing.assert_allclose(g, w + p - 0.1, atol=1e-5), grads, want, params)
    np.testing.assert_allclose(metrics["loss"], loss_sum / weight, rtol=1e-5)
    assert float(again["loss"]) == float(metrics["loss"])  # they are not donated
    assert len(loads) == 1


def test_a_step_is_lowered_from_their_shapes_alone():
    """They are arguments with shardings, no constants: a plan sees their memory, and nothing is loaded."""
    loads: list[int] = []
    program, mesh = pulled(MeshConfig(fsdp=4), loads)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=batch_sharding(mesh)), make_batch(0))
    with jax.set_mesh(mesh):
        memory = program.lower(batch).compile().memory_analysis()
        without = Program(experiment_of(), mesh).lower(batch).compile().memory_analysis()
    assert memory is not None
    assert without is not None
    assert memory.argument_size_in_bytes - without.argument_size_in_bytes == bytes_of(program.abstract.params)
    assert not loads


def test_an_experiment_without_any_has_an_empty_mapping():
    assert Program(experiment_of(), make_mesh(MeshConfig(data=1))).frozen == {}
