"""The attention layer: grouped heads, cross-attention, and a cache that changes nothing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.layers.attention import Attention
from transformer.layers.cache import KVCache, LayerCache
from transformer.layers.execution import Execution
from transformer.layers.positions import Rotary
from transformer.ops.attention import Mask

B, T, D, H, G, K = 2, 9, 12, 4, 2, 6


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(0).normal(size=(B, T, D)), jnp.float32)


@pytest.fixture(scope="module")
def layer(x):
    """Grouped-query attention with rotary positions and biases on q, k and v only, and its parameters."""
    module = Attention(
        D,
        H,
        K,
        Execution(),
        num_kv_heads=G,
        biases=frozenset({"query", "key", "value"}),
        rotary=Rotary(),
        kernel_init=nn.initializers.normal(0.5),
        out_init=nn.initializers.normal(0.5),
    )
    mask = Mask.self_attention(None, causal=True)
    init = jax.jit(lambda key: module.init(key, x, mask, positions_BT=jnp.zeros((B, T), jnp.int32)))
    return module, nn.meta.unbox(init(jax.random.key(0)))


def test_parameters_are_apart_and_shaped_by_heads(layer):
    params = layer[1]["params"]
    shapes = {name: tuple(sub["kernel"].shape) for name, sub in params.items()}
    assert shapes == {"query": (D, H, K), "key": (D, G, K), "value": (D, G, K), "out": (H, K, D)}
    assert {name for name, sub in params.items() if "bias" in sub} == {"query", "key", "value"}


def test_cached_equals_uncached_with_left_padding(layer, x):
    """Prompts of 5 and 3 tokens, then a chunk of two, then one by one: grouped heads, rotary."""
    module, params = layer
    segments = jnp.asarray([[1] * T, [0] * 2 + [1] * (T - 2)], jnp.int32)
    positions = jnp.maximum(jnp.cumsum(segments, axis=1, dtype=jnp.int32) - 1, 0)
    want, none = module.apply(params, x, Mask.self_attention(segments, causal=True), positions_BT=positions)
    assert none is None

    @jax.jit
    def step(cache, x, positions, segments):
        cache = cache.admit(positions, segments)
        part = LayerCache(cache.key_NBGKS[0], cache.value_NBGKS[0], cache.index)
        mask = cache.mask(positions, segments)
        out, new = module.apply(params, x, mask, positions_BT=positions, cache=part)
        return out, cache.write(*(array[None] for array in new))

    cache, outs = KVCache.empty(1, B, T + 3, G, K, jnp.float32), []
    for start, stop in ((0, 5), (5, 7), (7, 8), (8, 9)):
        part = slice(start, stop)
        out, cache = step(cache, x[:, part], positions[:, part], segments[:, part])
        outs.append(out)
    assert cache.index == T
    real = np.asarray(segments, bool)
    np.testing.assert_allclose(np.concatenate(outs, axis=1)[real], np.asarray(want)[real], rtol=2e-6, atol=2e-6)


def test_cross_attention_projects_its_source_once(x):
    source = jnp.asarray(np.random.default_rng(1).normal(size=(B, 5, 7)), jnp.float32)  # another width
    module = Attention(D, H, K, Execution())
    mask = Mask(q_segment_ids_BT=jnp.ones((B, T), jnp.int32), kv_segment_ids_BS=jnp.asarray([[1] * 5, [1, 1, 0, 0, 0]]))

    def cross(module, x, source):
        return module.attend(x, module.keys_values(source), mask)

    params = nn.meta.unbox(module.init(jax.random.key(0), x, source, method=cross))
    assert params["params"]["key"]["kernel"].shape == (7, H, K)
    out = module.apply(params, x, source, method=cross)
    changed = module.apply(params, x, source.at[1, 2:].set(9.0), method=cross)  # padding does not matter
    np.testing.assert_array_equal(out, changed)


def test_rotary_needs_positions(layer, x):
    module, params = layer
    with pytest.raises(ValueError, match="needs positions"):
        module.apply(params, x, Mask.self_attention(None, causal=True))


def test_a_cache_refuses_more_tokens_than_slots():
    cache = KVCache.empty(1, B, 4, G, K, jnp.float32)
    with pytest.raises(ValueError, match="5 tokens for a cache of 4 slots"):
        cache.admit(jnp.zeros((B, 5), jnp.int32), jnp.zeros((B, 5), jnp.int32))
