"""What parameters are called and what they are: one vocabulary, by which trees are laid out flat and back."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_models import TINY
from transformer import params

NAMES = st.text(st.characters(exclude_characters="/", exclude_categories=("C",)), min_size=1, max_size=4)
TREES = st.dictionaries(
    NAMES,
    st.recursive(st.integers(), lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3), max_leaves=6),
    min_size=1,
    max_size=3,
)


@given(TREES)
def test_flattening_is_undone_and_keeps_the_trees_order(tree):
    flat = params.flatten(tree)
    assert params.unflatten(flat) == tree
    assert list(flat.values()) == jax.tree.leaves(tree)
    assert flat == flatten_dict(tree, sep="/")  # Flax's, in another order


@given(NAMES, st.lists(NAMES, max_size=4))
def test_a_path_is_its_modules_and_a_name(name, modules):
    path = "/".join([*modules, name])
    assert params.name_of(path) == name
    assert params.Parameter(path, (), ()).modules == modules
    assert params.modules_of(path) == ["/".join(modules[:depth]) for depth in range(1, len(modules) + 1)]


@pytest.mark.parametrize("family", TINY)
def test_every_familys_parameters(family):
    """Stacked are the arrays under `layers`, unless the layers share them; matrices, those of two axes of their own."""
    architecture = TINY[family]
    abstract = nn.meta.unbox(architecture.abstract_params())
    assert {path: each.shape for path, each in architecture.parameters.items()} == {
        path: leaf.shape for path, leaf in params.flatten(abstract).items()
    }
    assert sum(each.size for each in architecture.parameters.values()) == architecture.num_params()
    for path, each in architecture.parameters.items():
        assert params.is_stacked(each.names) == ("layers" in each.modules and family != "albert"), path
        assert sorted(params.own_axes(each.names) + params.stacked_axes(each.names)) == [*range(len(each.shape))]
        if params.is_matrix(path):
            assert len(params.own_axes(each.names)) >= 2, path


def test_an_optimizers_state_has_paths_too():
    flat = params.flatten({"mu": ({"kernel": np.zeros(2)}, None)})
    assert list(flat) == ["mu/0/kernel"]


def test_an_array_without_a_box_has_nameless_axes():
    boxed = {"a": nn.LogicallyPartitioned(jnp.zeros((2, 3)), ("layers", "embed")), "b": jnp.zeros(4)}
    assert params.param_names(boxed) == {"a": ("layers", "embed"), "b": (None,)}
    described = params.map_parameters(
        lambda path, names, leaf: (path, len(names), leaf.shape), params.param_names(boxed), nn.meta.unbox(boxed)
    )
    assert described == {"a": ("a", 2, (2, 3)), "b": ("b", 1, (4,))}
