"""The resolver refuses what XLA and Flax would silently replicate."""

import itertools
import types

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from transformer.errors import UserError
from transformer.parallel.layout import batch_sharding, param_shardings
from transformer.parallel.mesh import MESH_AXES, MeshConfig, make_mesh
from transformer.parallel.rules import RULES, constrain, resolve

MESH = {"data": 2, "fsdp": 2, "tensor": 2, "sequence": 1}


def test_resolves_names_to_mesh_axes():
    assert resolve(("layers", "embed", "mlp"), (3, 8, 16), MESH, what="w") == P(None, "fsdp", "tensor")
    assert resolve(("activation_batch", "activation_length"), (8, 5), MESH, what="x") == P(("data", "fsdp"), None)


def test_unknown_name_raises():
    with pytest.raises(KeyError, match="embd.*known: layers"):
        resolve(("embd",), (8,), MESH, what="w")
    with pytest.raises(KeyError, match="lenght"):
        constrain(jnp.ones((2, 2)), "activation_batch", "lenght")


def test_two_names_on_one_mesh_axis_raise():
    with pytest.raises(UserError, match="'heads' and 'mlp' are both split over mesh axis 'tensor'"):
        resolve(("heads", "mlp"), (8, 8), MESH, what="w")


def test_indivisible_dimension_raises():
    with pytest.raises(
        UserError, match=r"parameter x: its 'heads' dimension of 3 is not divided by tensor = 2 .*--mesh.tensor"
    ):
        resolve(("heads",), (3,), MESH, what="parameter x")


@given(st.sampled_from(sorted(RULES)), st.integers(1, 64), st.lists(st.sampled_from([1, 2, 4]), min_size=6, max_size=6))
def test_one_dimension_is_split_exactly_where_it_divides(name, size, sizes):
    mesh = dict(zip(MESH_AXES, sizes, strict=True))
    parts = 1
    for axis in RULES[name]:
        parts *= mesh[axis]
    if size % parts:
        with pytest.raises(UserError):
            resolve((name,), (size,), mesh, what="w")
    else:
        resolve((name,), (size,), mesh, what="w")


def test_constrain_shards_activations_and_leaves_what_does_not_divide(mesh_2x2x2):
    with jax.set_mesh(mesh_2x2x2):
        names = ("activation_batch", "activation_length", "activation_embed")
        split = jax.jit(lambda x: constrain(x, *names))(jnp.ones((8, 3, 5)))
        assert split.sharding.spec[0] == ("data", "fsdp")
        single = jax.jit(lambda x: constrain(x, *names))(jnp.ones((1, 3, 5)))
        assert single.sharding.is_fully_replicated


def test_shards_a_tree_of_parameters(mesh_2x2x2):
    boxed = {"kernel": nn.LogicallyPartitioned(jax.ShapeDtypeStruct((8, 16), jnp.float32), ("embed", "mlp"))}
    assert param_shardings(boxed, mesh_2x2x2)["kernel"].spec == P("fsdp", "tensor")
    assert batch_sharding(mesh_2x2x2).spec == P(("data", "fsdp"))


def test_mesh_defaults_to_data_over_all_devices():
    assert make_mesh(MeshConfig()).shape["data"] == 8
    assert make_mesh(MeshConfig(tensor=2)).shape["data"] == 4
    assert make_mesh(MeshConfig(data=1)).size == 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"data": 16}, "needs 16 devices and there are 8"),
        ({"tensor": 16}, "tensor 16 needs 16 devices"),
        ({"fsdp": 0}, "fsdp is 0"),
    ],
)
def test_mesh_refuses(sizes, message):
    with pytest.raises(UserError, match=message):
        make_mesh(MeshConfig(**sizes))


def test_a_slice_that_a_mesh_does_not_fit_is_refused():
    """JAX lays a mesh along the sides of a TPU slice, and has no axis of 2 for one of 4 x 4 x 4."""
    places = itertools.product(range(4), repeat=3)
    chips = [
        types.SimpleNamespace(
            id=number, platform="tpu", device_kind="TPU v5", coords=coords, core_on_chip=0, process_index=0
        )
        for number, coords in enumerate(places)
    ]
    with pytest.raises(UserError, match="fsdp 32 x tensor 2 does not fit a slice of 4 x 4 x 4 chips"):
        make_mesh(MeshConfig(fsdp=32, tensor=2), chips)
