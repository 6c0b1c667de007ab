"""Stacks of layers of two kinds: every layer is in one place, in order, with its own part of a cache."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_models import TINY, random_params
from transformer.layers.execution import Execution
from transformer.layers.mixed import Layout


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_every_layer_has_one_place(kinds):
    layout = Layout.of(kinds)
    assert sum(layout.stacks.values()) == len(kinds)
    places = {number: kind for _, kind, numbers in layout.places() for number in numbers}
    assert [places[number] for number in range(len(kinds))] == kinds
    first = 0
    for run in layout.runs:
        assert run.first == first
        first += run.layers


def test_layers_that_take_turns_are_groups_and_others_runs():
    assert [*Layout.of([False, True, False, True]).places()] == [
        ("stack/layers/block_0/", False, range(0, 4, 2)),
        ("stack/layers/block_1/", True, range(1, 4, 2)),
    ]
    assert Layout.of([False] * 3 + [True] * 58).stacks == {"stack_0": 3, "stack_1": 58}
    assert [*Layout.of([True] * 4).places()] == [("stack/layers/", True, range(4))]


@pytest.mark.parametrize(
    "dense_layers", [pytest.param((0, 2), marks=pytest.mark.exhaustive), (0, 1, 3)], ids=["groups", "runs"]
)
def test_a_cache_of_mixed_layers_changes_nothing(dense_layers):
    experts = TINY["olmoe"].experts
    config = dataclasses.replace(TINY["llama"], num_layers=4, experts=experts, dense_layers=dense_layers)
    params, model = random_params(config), config.build(Execution())
    apply = jax.jit(model.apply)
    tokens = np.random.default_rng(0).integers(0, 32, (2, 9)).astype(np.int32)
    positions = np.tile(np.arange(9, dtype=np.int32), (2, 1))
    want = apply({"params": params}, tokens, positions)
    assert len(want.routers) == len([kind for _, kind, _ in config.layout.places() if kind])
    cache, outs = model.init_cache(2, 9), []
    for start, stop in ((0, 7), (7, 8), (8, 9)):
        part = (slice(None), slice(start, stop))
        out = apply({"params": params}, tokens[part], positions[part], cache=cache)
        cache = out.cache
        outs.append(out.logits)
    np.testing.assert_allclose(np.concatenate(outs, axis=1), want.logits, atol=1e-5)
