"""A prefix in every decoder: who is reached by whom, a cache that changes nothing, causality where there is none."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.exhaustive import few
from tests.tiny_models import TINY
from transformer.layers.execution import Execution
from transformer.objectives import PrefixLM

LENGTH = 16
# Two documents with a prefix each and padding; padding on the left, and a prefix longer than any window.
SEGMENTS = np.array([[1] * 8 + [2] * 6 + [0] * 2, [0] * 3 + [1] * 13], np.int32)
PREFIX = np.array([[1] * 5 + [0] * 3 + [1] * 2 + [0] * 6, [0] * 3 + [1] * 9 + [0] * 4], np.int32)
POSITIONS = np.array([[*range(8), *range(6), 0, 0], [0] * 3 + [*range(13)]], np.int32)
TOKENS = np.random.default_rng(1).integers(0, 32, (2, LENGTH)).astype(np.int32)
ROWS = {"tokens": TOKENS, "positions": POSITIONS, "segment_ids": SEGMENTS}
# Of the layers, one after the other; None sees all.
WINDOWS = {"gpt": (None, 4), "gpt1": (None, None), "llama": (5, 5)}


@pytest.fixture(params=WINDOWS, scope="module")
def config(request):
    return TINY[request.param]


def reach(family, row):
    """Returns bool [T, T], from the definition: whether a token's output may depend on another token, by any path."""
    q, k = np.arange(LENGTH)[:, None], np.arange(LENGTH)[None]
    segments, prefix = SEGMENTS[row], PREFIX[row]
    seen = (segments[:, None] == segments) & (segments > 0) & ((k <= q) | (prefix == 1))
    reached = np.eye(LENGTH, dtype=bool)
    for window in WINDOWS[family]:
        layer = seen if window is None else seen & (abs(q - k) < window)
        reached = reached | (layer.astype(int) @ reached.astype(int) > 0)
    return reached


def test_gradients_reach_the_prefix_from_both_sides_and_no_other_later_token(config, params):
    """The gradient of each token's output with respect to all embeddings."""
    module = config.build(Execution())

    def scores(noise_BTD):
        def add_noise(next_fun, args, kwargs, context):
            out = next_fun(*args, **kwargs)
            embeds = context.module.name == "token_embedding" and context.method_name == "__call__"
            return out + noise_BTD if embeds else out

        with nn.intercept_methods(add_noise):
            out = module.apply({"params": params}, **ROWS, prefix=PREFIX)
        return jnp.sin(3 * out.hidden_BTD).sum(-1)

    @jax.jit
    def all_gradients(noise_BTD):
        # One after the other: XLA:CPU of jax 0.10.2 mixes rows up where many of grouped attention are batched.
        out_BT, pullback = jax.vjp(scores, noise_BTD)
        return jax.lax.map(lambda one: pullback(one)[0], jnp.eye(out_BT.size).reshape(-1, *out_BT.shape))

    jacobian = np.abs(all_gradients(jnp.zeros((2, LENGTH, config.width)))).max(-1).reshape(2, LENGTH, 2, LENGTH)
    for row in range(2):
        np.testing.assert_array_equal(jacobian[row, :, row] > 0, reach(config.family, row))
        assert not jacobian[row, :, 1 - row].any()


def test_later_tokens_do_not_change_what_comes_before_them_and_a_prefix_does(config, params, apply):
    want = np.asarray(apply({"params": params}, **ROWS, prefix=PREFIX).logits)
    for place in range(LENGTH):
        other = ROWS | {"tokens": TOKENS + (np.arange(LENGTH) == place).astype(np.int32)}
        changed = np.asarray(apply({"params": params}, **other, prefix=PREFIX).logits) != want
        for row in range(2):
            np.testing.assert_array_equal(changed[row].any(-1), reach(config.family, row)[:, place])


def test_no_prefix_is_causality(config, params, apply):
    """With None there is not even an array more than there was: the program is the same."""
    variables = {"params": params}
    text = apply.lower(variables, **ROWS).as_text()
    assert apply.lower(variables, **ROWS, prefix=None).as_text() == text
    empty = apply(variables, **ROWS, prefix=np.zeros_like(PREFIX)).logits
    np.testing.assert_allclose(empty, apply(variables, **ROWS).logits, atol=1e-5)


@pytest.mark.parametrize("config", few(WINDOWS, "gpt"), indirect=True, scope="module")
@pytest.mark.parametrize("before", few([0, 4], 4))
def test_a_prompt_read_as_a_prefix_and_continued_equals_the_uncached_model(before, config, params, apply):
    """Prompts of unequal length, padded on the left, then a chunk of two, then a token at a time.

    They are the first in the cache, or come after another text that was read causally.
    """
    segments = np.array([[1] * before + [2] * (LENGTH - before), [0] * 6 + [2] * 10], np.int32)
    positions = np.array([[*range(before), *range(LENGTH - before)], [0] * 6 + [*range(10)]], np.int32)
    prefix = ((segments == 2) & (np.arange(LENGTH) < 12)).astype(np.int32)
    want = np.asarray(apply({"params": params}, TOKENS, positions, segments, prefix).logits)
    cache, outs = config.build(Execution()).init_cache(2, 20), []
    for start, stop in ((0, before), (before, 12), (12, 14), (14, 15), (15, 16)):
        if start == stop:
            continue
        part = (slice(None), slice(start, stop))
        given = {"prefix": prefix[part]} if stop == 12 else {}
        out = apply({"params": params}, TOKENS[part], positions[part], segments[part], **given, cache=cache)
        cache = out.cache
        outs.append(out.logits)
    real = segments > 0
    np.testing.assert_allclose(np.concatenate(outs, axis=1)[real], want[real], atol=1e-5)
    causal = np.asarray(apply({"params": params}, TOKENS, positions, segments).logits)
    assert np.abs(causal - want)[:, 12:].max() > 1e-3


def test_what_a_prefix_model_is_asked_is_never_shown_to_it(config, params, apply):
    """No token changes what is scored at an earlier place: of whole examples, cut in ten ways."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        records = [
            {
                "tokens": np.append(TOKENS[row], np.int32(9)),
                "segment_ids": np.append(SEGMENTS[row], np.int32(row)),
                "positions": np.append(POSITIONS[row], np.int32(13 * row)),
            }
            for row in range(2)
        ]
        examples = [PrefixLM().example(record, rng) for record in records]
        inputs = jax.tree.map(lambda *rows: np.stack(rows), *[example["inputs"] for example in examples])
        weights = np.stack([example["weights"] for example in examples])
        assert (weights.sum(axis=1) > 0).all()
        want = np.asarray(apply({"params": params}, **inputs).logits)
        for place in range(1, LENGTH):
            other = inputs | {"tokens": inputs["tokens"] + (np.arange(LENGTH) == place).astype(np.int32)}
            changed = (np.asarray(apply({"params": params}, **other).logits) != want).any(-1)
            assert not (changed & (weights > 0))[:, :place].any()
