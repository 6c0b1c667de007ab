"""Attention over a split sequence is attention: outputs and gradients against the reference on one device."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.ops import blockwise
from transformer.ops.attention import Mask, attention
from transformer.parallel.context import attention_in_context, balanced, balanced_order
from transformer.parallel.mesh import MeshConfig, make_mesh

B, T, H, G, K = 2, 32, 4, 2, 8
MESH = make_mesh(MeshConfig(data=1, sequence=4))
# One row of two documents and padding, which ends within a chunk; another whose first two chunks are padding alone.
SEGMENTS = np.zeros((B, T), np.int32)
SEGMENTS[0, :10], SEGMENTS[0, 10:27], SEGMENTS[1, 18:] = 1, 2, 1
PREFIX = np.zeros((B, T), np.int32)
PREFIX[0, :3], PREFIX[0, 10:22], PREFIX[1, 18:20] = 1, 1, 1
MASKS = {
    "causal": Mask.self_attention(None, causal=True),
    "packed": Mask.self_attention(jnp.asarray(SEGMENTS), causal=True),
    "window": Mask.self_attention(jnp.asarray(SEGMENTS), causal=True, window=5),
    "prefix": Mask.self_attention(jnp.asarray(SEGMENTS), causal=True, prefix_BT=jnp.asarray(PREFIX)),
    "prefix and window": Mask.self_attention(
        jnp.asarray(SEGMENTS), causal=True, prefix_BT=jnp.asarray(PREFIX), window=6
    ),
    "bidirectional": Mask.self_attention(jnp.asarray(SEGMENTS), causal=False),
    "band": Mask.self_attention(None, causal=False, window=3),
    "all": Mask.self_attention(None, causal=False),
}


def arrays(
    *, heads: tuple[int, int] = (H, G), source: int = T, value_width: int | None = None, dtype=jnp.float32
) -> tuple[jax.Array, ...]:
    """Queries, keys, values, and the output's cotangent."""
    rng, V = np.random.default_rng(0), value_width or K
    shapes = (B, T, heads[0], K), (B, source, heads[1], K), (B, source, heads[1], V), (B, T, heads[0], V)
    return tuple(jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes)


@functools.partial(jax.jit, static_argnames=("function", "context"))
def with_gradients(function, q, k, v, do, mask, bias=None, **options):
    out, pullback = jax.vjp(lambda q, k, v: function(q, k, v, mask, bias=bias, **options), q, k, v)
    return out, *pullback(do)


def reference(q, k, v, mask, *, bias=None):
    return attention(q, k, v, mask, bias=bias, implementation="reference")


def over(mesh, context, *values, bias=None):
    with jax.set_mesh(mesh):
        return with_gradients(attention_in_context, *values, bias, context=context)


def assert_close(have, want, atol=1e-5):
    for index, (array, expected) in enumerate(zip(have, want, strict=True)):
        np.testing.assert_allclose(np.asarray(array, np.float32), expected, atol=atol, err_msg=str(index))


EXHAUSTIVE = pytest.mark.exhaustive
ALWAYS = {("gather", "prefix and window"), ("ring", "prefix and window"), ("ring", "packed")}


@pytest.mark.parametrize(
    ("context", "name"),
    [
        pytest.param(context, name, marks=() if (context, name) in ALWAYS else EXHAUSTIVE)
        for context in ("gather", "ring")
        for name in MASKS
    ],
)
def test_equals_one_device(context, name):
    values = *arrays(), MASKS[name]
    assert_close(over(MESH, context, *values), with_gradients(reference, *values))


@pytest.mark.parametrize("context", few(["gather", "ring"], "ring"))
def test_values_of_another_width(context):
    """As of attention over latents."""
    values = *arrays(value_width=K + 2), MASKS["packed"]
    assert_close(over(MESH, context, *values), with_gradients(reference, *values))


@pytest.mark.exhaustive
@pytest.mark.parametrize("context", ["gather", "ring"])
@pytest.mark.parametrize("sizes", [{"data": 2, "tensor": 2, "sequence": 2}, {"data": 1, "fsdp": 2, "sequence": 4}])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (8, 2)])
def test_other_axes_split_rows_and_heads(context, sizes, heads):
    values = *arrays(heads=heads), MASKS["prefix"]
    assert_close(over(make_mesh(MeshConfig(**sizes)), context, *values), with_gradients(reference, *values))


@pytest.mark.exhaustive
@pytest.mark.parametrize("context", ["gather", "ring"])
def test_cross_attention_to_another_length(context):
    source = np.zeros((B, 48), np.int32)
    source[0, :30], source[1, :5] = 1, 1
    target = np.ones((B, T), np.int32)
    target[1, 20:] = 0
    mask = Mask(q_segment_ids_BT=jnp.asarray(target), kv_segment_ids_BS=jnp.asarray(source))
    values = *arrays(source=48), mask
    assert_close(over(MESH, context, *values), with_gradients(reference, *values))


def test_gathers_with_a_bias():
    bias = jax.random.normal(jax.random.key(0), (1, H, T, T))
    mask = Mask.self_attention(jnp.asarray(SEGMENTS), causal=True)

    def of_bias(function, **options):
        return jax.jit(
            jax.value_and_grad(lambda bias: (function(*arrays()[:3], mask, bias=bias, **options) * arrays()[3]).sum())
        )(bias)

    with jax.set_mesh(MESH):
        have = of_bias(attention_in_context, context="gather")
    want = of_bias(reference)
    np.testing.assert_allclose(have[0], want[0], rtol=1e-5)
    np.testing.assert_allclose(have[1], want[1], atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("shape", [(B, 1, 1, T), (1, H, T, T), (B, H, T, T)])
def test_gathers_with_a_bias_of_any_shape(shape):
    bias = jax.random.normal(jax.random.key(0), shape)
    values = *arrays(), MASKS["bidirectional"]
    assert_close(over(MESH, "gather", *values, bias=bias), with_gradients(reference, *values, bias))


@pytest.mark.parametrize("sizes", few([{"sequence": 4}, {"sequence": 2, "tensor": 2}], {"sequence": 2, "tensor": 2}))
def test_drops_the_probabilities_that_one_device_drops(sizes):
    """Heads that `tensor` splits, and one head that it cannot split."""
    mesh = make_mesh(MeshConfig(**{"data": 1, **sizes}))
    options = {"dropout_rate": 0.25, "dropout_key": jax.random.key(0)}
    for heads in ((H, G), (1, 1)):
        q, k, v, _ = arrays(heads=heads)
        want = attention(q, k, v, MASKS["window"], implementation="reference", **options)
        with jax.set_mesh(mesh):
            drop = functools.partial(attention_in_context, mask=MASKS["window"], dropout_rate=0.25)
            have = jax.jit(drop)(q, k, v, dropout_key=options["dropout_key"])
        for shard in have.addressable_shards:  # copies on several devices too
            np.testing.assert_allclose(shard.data, want[shard.index], atol=1e-5)


@given(st.data())
@settings(max_examples=15)
def test_ring_under_any_mask(data):
    """Any segments, prefixes and order of the tokens; the mask's static fields are compiled once each."""
    causal, window = data.draw(st.sampled_from([(True, None), (True, 6), (False, None)]))
    starts = data.draw(st.lists(st.integers(0, T), min_size=3, max_size=3).map(sorted))
    segments = np.tile(np.searchsorted(starts, np.arange(T), side="right").astype(np.int32), (B, 1))  # 0 comes first
    segments[1] = data.draw(st.sampled_from([np.zeros(T, np.int32), np.ones(T, np.int32), segments[0][::-1]]))
    prefix = np.asarray(data.draw(st.lists(st.integers(0, 1), min_size=T, max_size=T)), np.int32)
    prefix_BT = jnp.asarray(np.tile(prefix, (B, 1))) if causal else None
    order = np.asarray(data.draw(st.sampled_from([np.arange(T), balanced_order(T, 4), np.arange(T)[::-1]])), np.int32)
    mask = Mask.self_attention(jnp.asarray(segments), causal=causal, window=window, prefix_BT=prefix_BT)
    mask = mask.ordered(jnp.asarray(order)[None])
    values = *arrays(), mask
    assert_close(over(MESH, "ring", *values), with_gradients(reference, *values))


def test_several_blocks_a_chunk(monkeypatch):
    """Blocks that order hides are skipped, here and on other devices, forward and backward."""
    monkeypatch.setattr(blockwise, "BLOCK", 4)  # no other test compiles this mask
    values = *arrays(), Mask.self_attention(jnp.asarray(SEGMENTS), causal=True, window=9)
    have = over(MESH, "ring", *values)
    assert_close(have, with_gradients(reference, *values))


@pytest.mark.exhaustive
@pytest.mark.parametrize("context", ["gather", "ring"])
def test_bfloat16_is_near_the_reference(context):
    values = arrays()
    have = over(MESH, context, *(x.astype(jnp.bfloat16) for x in values), MASKS["packed"])
    for array, want in zip(have, with_gradients(reference, *values, MASKS["packed"]), strict=True):
        assert array.dtype == jnp.bfloat16
        assert jnp.linalg.norm(array.astype(jnp.float32) - want) < 0.01 * jnp.linalg.norm(want)


def test_block_divides():
    assert [blockwise.block_of(length) for length in (1, 1024, 2048, 1536, 1025)] == [1, 512, 512, 512, 205]


def test_balanced_order_gives_every_device_an_early_and_a_late_chunk():
    assert balanced_order(16, 4).tolist() == [0, 1, 14, 15, 2, 3, 12, 13, 4, 5, 10, 11, 6, 7, 8, 9]
    for parts in (1, 2, 8):
        order = balanced_order(64, parts)
        assert sorted(order) == list(range(64))
        keys_seen = (order + 1).reshape(parts, -1).sum(axis=1)
        assert len(set(keys_seen.tolist())) == 1


def test_balanced_permutes_targets_with_their_tokens():
    tokens = np.arange(B * T, dtype=np.int32).reshape(B, T)
    batch = {"inputs": {"tokens": tokens}, "targets": tokens + 1, "weights": tokens.astype(np.float32)}
    with jax.set_mesh(MESH):
        have = jax.jit(functools.partial(balanced, context="ring", kind="decoder"))(batch)
        for context, kind in (("gather", "decoder"), ("ring", "encoder")):
            assert balanced(batch, context, kind) is batch
    order = balanced_order(T, 4)
    assert have["inputs"]["order"].tolist() == [order.tolist()]
    np.testing.assert_array_equal(have["inputs"]["tokens"], tokens[:, order])
    np.testing.assert_array_equal(have["targets"], have["inputs"]["tokens"] + 1)
    np.testing.assert_array_equal(have["weights"], have["inputs"]["tokens"])
    assert balanced(batch, "ring", "decoder") is batch  # no mesh


def test_ring_says_what_it_does_not_support():
    q, k, v, _ = arrays()
    mask = Mask.self_attention(None, causal=True)
    cases = {
        "bias": {"bias": jnp.zeros((1, 1, T, T))},
        "dropout": {"dropout_rate": 0.1, "dropout_key": jax.random.key(0)},
        "'cudnn'": {"implementation": "cudnn"},
    }
    with jax.set_mesh(MESH):
        for named, options in cases.items():
            with pytest.raises(
                UserError, match=f"ring does not support .*{named}.*: choose --execution.context gather"
            ):
                attention_in_context(q, k, v, mask, context="ring", **options)


def test_one_token_is_not_split():
    """Decoding: a token does not divide by the axis, and the numbers are those of one device."""
    q, k, v, do = arrays()
    mask = Mask(jnp.full((1, 1), T - 1, jnp.int32), jnp.arange(T, dtype=jnp.int32)[None], causal=True)
    values = q[:, :1], k, v, do[:, :1], mask
    assert_close(over(MESH, "ring", *values), with_gradients(reference, *values))


@pytest.mark.exhaustive
def test_memory_of_a_ring_grows_with_the_length_alone(monkeypatch):
    """By the compiler's own count; scores of all pairs would be 16 times as large."""
    monkeypatch.setattr(blockwise, "BLOCK", 64)

    def temporaries(length: int) -> int:
        shapes = [jax.ShapeDtypeStruct((1, length, heads, 8), jnp.float32) for heads in (2, 1, 1, 2)]

        def step(q, k, v, do):
            mask = Mask.self_attention(None, causal=True)
            out, pullback = jax.vjp(lambda *values: attention_in_context(*values, mask, context="ring"), q, k, v)
            return out, *pullback(do)

        with jax.set_mesh(MESH):
            return jax.jit(step).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8192) < 4.4 * temporaries(2048)
