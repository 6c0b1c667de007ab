"""A backbone under another head: what is shared is taken, what is new is named, a backbone that differs is refused."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from tiny_models import TINY

from transformer.errors import UserError
from transformer.models.graft import graft

BERT = TINY["bert"]


@pytest.fixture(scope="module")
def params():
    shapes = nn.meta.unbox(BERT.abstract_params())
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, 7.0, leaf.dtype), shapes)


@pytest.mark.parametrize("head", ["masked_lm", "sequence_classification", "question_answering", "none"])
def test_the_backbone_is_taken_and_the_rest_is_named(params, head):
    target = dataclasses.replace(BERT, head=head, num_labels=3)
    tree, new, left = graft(target, params)
    shapes = jax.tree.map(jnp.shape, nn.meta.unbox(target.abstract_params()))
    assert jax.tree.map(jnp.shape, tree) == shapes
    assert not any(path.startswith("backbone/") for path in (*new, *left))
    flat = flatten_dict(tree, sep="/")
    assert all((flat[path] == 7.0).all() for path in flat if path not in new)
    assert ("head/out/kernel" in new) == (head in ("sequence_classification", "question_answering"))
    assert not any((flat[path] == 7.0).all() for path in new)


def test_what_is_new_comes_from_the_fresh_tree_where_one_is_given(params):
    target = dataclasses.replace(BERT, head="token_classification", num_labels=3)
    fresh = jax.tree.map(lambda leaf: np.full(leaf.shape, 5.0, np.float32), nn.meta.unbox(target.abstract_params()))
    tree, new, _ = graft(target, params, fresh)
    flat = flatten_dict(tree, sep="/")
    assert new
    assert all((flat[path] == 5.0).all() for path in new)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 48}, r"backbone/token_embedding/embedding \(32, 16\), needed \(48, 16\)"),
        ({"num_layers": 3}, r"needed \(3, 16, 4, 4\)"),
    ],
)
def test_another_backbone_is_refused_by_name(params, fields, message):
    with pytest.raises(UserError, match=message):
        graft(dataclasses.replace(BERT, **fields), params)
