"""Digests of values: the same on every mesh, another for every change."""

import collections

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from transformer.checkpoint import digest


def of(tree):
    return digest.digest_record(tree, digest.start_digests(tree))


@pytest.fixture(scope="module")
def tree():
    rng = np.random.default_rng(0)
    return {
        "layers": {"kernel": jnp.asarray(rng.normal(size=(4, 8, 6)), jnp.float32)},
        "half": jnp.asarray(rng.normal(size=(8, 4)), jnp.bfloat16),
        "small": jnp.arange(8, dtype=jnp.int8),
        "flags": jnp.asarray([True, False] * 4),
        "step": jnp.asarray(3, jnp.int32),
    }


def test_the_formula_in_plain_python(tree):
    """digest_j = sum_i bits_i m_j(i) mod 2^32, element by element."""
    record = of(tree)
    assert (record["layers/kernel"]["shape"], record["layers/kernel"]["dtype"]) == ([4, 8, 6], "float32")
    for path, words in (
        ("layers/kernel", np.asarray(tree["layers"]["kernel"]).view(np.uint32)),
        ("half", np.asarray(tree["half"]).view(np.uint16)),
        ("small", np.asarray(tree["small"]).view(np.uint8)),
    ):
        sums = [0, 0]
        for place, word in enumerate(words.reshape(-1).tolist()):
            scattered = place * 0x9E3779B1 % 2**32
            scattered ^= scattered >> 15
            for j, factor in enumerate((0x85EBCA77, 0xC2B2AE3D)):
                sums[j] += word * (scattered * factor % 2**32 | 1)
        assert record[path]["digest"] == [total % 2**32 for total in sums]


def test_does_not_depend_on_the_mesh(tree, mesh_2x2x2):
    specs = {
        "layers": {"kernel": P("data", ("fsdp", "tensor"), None)},
        "half": P("tensor", "fsdp"),
        "small": P(("data", "fsdp", "tensor")),
        "flags": P(),
        "step": P(),
    }
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh_2x2x2, spec), specs, is_leaf=lambda x: isinstance(x, P))
    assert of(jax.device_put(tree, shardings)) == of(tree)


def test_takes_no_memory_beside_the_arrays():
    """By XLA's own account: a restore of what barely fits has no room for a copy."""
    leaf = jax.ShapeDtypeStruct((64, 1024), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    assert digest.prepare_digests([leaf]).memory_analysis().temp_size_in_bytes < 4096


@hypothesis.given(hypothesis.extra.numpy.arrays(np.uint32, (3, 5)), st.integers(0, 14), st.integers(1, 2**32 - 1))
def test_one_changed_element_changes_both_numbers(words, place, change):
    other = words.copy()
    other.flat[place] ^= np.uint32(change)
    before, after = (of([jnp.asarray(x)])["0"]["digest"] for x in (words, other))
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_exchanged_and_moved_values_differ():
    x = jnp.arange(12, dtype=jnp.float32).reshape(3, 4)
    digests = {tuple(of([y])["0"]["digest"]) for y in (x, x[::-1], x[:, ::-1], jnp.roll(x, 1), x.T.reshape(3, 4))}
    assert len(digests) == 5


def test_a_wider_type_is_compared_in_the_type_that_was_saved(tree):
    record = of(tree)
    wider = {**tree, "half": tree["half"].astype(jnp.float32)}
    assert digest.differing(wider, record) == []
    wider["half"] = wider["half"].at[0, 0].add(0.1)
    assert digest.differing(wider, record) == ["half"]
    assert digest.differing({"unknown": tree["half"]}, record) == []


def test_a_restore_shares_the_program_of_a_save_and_has_it_compiled_ahead(tree):
    """A resumed run compiles one program of digests for each of its trees, whatever the order of their paths."""
    State = collections.namedtuple("State", ("zeta", "alpha"))  # an order that is not the paths'
    state = State(tree["layers"]["kernel"], tree["half"])
    record = of(state)
    digest._compiled.cache_clear()
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    state = jax.device_put(state, NamedSharding(mesh, P()))
    described = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    digest.prepare_differing(described, record)
    assert digest._compiled.cache_info().currsize == 1
    assert digest.differing(state, record) == []
    digest.start_digests(state)
    assert digest._compiled.cache_info().currsize == 1
