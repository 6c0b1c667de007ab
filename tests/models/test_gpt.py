"""GPT: who sees whom, caching, execution options, dropout, counts and FLOPs. (Parity: tests/interop/test_gpt2.py.)"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models import FAMILIES
from transformer.models.gpt import GPTConfig
from transformer.ops.cross_entropy import cross_entropy


def _abstract(config):
    module = config.build(Execution())
    return module, {"params": nn.meta.unbox(config.abstract_params())}


def test_gradients_reach_neither_later_tokens_nor_other_segments(tiny, tiny_params, tiny_batch):
    """The gradient of each token's logits with respect to all token embeddings, through untied tables."""
    batch = tiny_batch
    module = tiny.build(Execution())
    rows, length = batch["tokens"].shape

    def hidden_norms(noise_BTD):
        def add_noise(next_fun, args, kwargs, context):
            out = next_fun(*args, **kwargs)
            embeds = context.module.name == "token_embedding" and context.method_name == "__call__"
            return out + noise_BTD if embeds else out

        with nn.intercept_methods(add_noise):
            out = module.apply({"params": tiny_params}, **batch)
        return jnp.sin(out.logits).sum(-1)  # [B, T]

    jacobian = jax.jit(jax.jacrev(hidden_norms))(jnp.zeros((rows, length, tiny.width)))  # [B, T, B, T, D]
    reaches = np.abs(np.asarray(jacobian)).max(-1) > 0
    segments, order = batch["segment_ids"], np.arange(length)
    for row in range(rows):
        same = (segments[row][:, None] == segments[row][None]) & (segments[row] != 0)[None]
        want = same & (order[:, None] >= order[None]) | np.eye(length, dtype=bool)
        np.testing.assert_array_equal(reaches[row, :, row], want)
        assert not reaches[row, :, 1 - row].any()


def test_a_packed_document_scores_as_it_does_alone(tiny_params, tiny_batch, tiny_apply):
    tokens, segments = tiny_batch["tokens"], tiny_batch["segment_ids"]
    packed = tiny_apply({"params": tiny_params}, **tiny_batch).logits
    for row, segment in ((0, 1), (1, 1), (1, 2)):
        here = segments[row] == segment
        alone = tiny_apply({"params": tiny_params}, tokens[row : row + 1, here]).logits
        np.testing.assert_allclose(packed[row, here], alone[0], atol=1e-5)


def test_prefill_and_decode_equal_the_uncached_model(tiny, tiny_params, tiny_batch, tiny_apply):
    """Left-padded prompts of 4 and 8 tokens, then a token at a time."""
    tokens = tiny_batch["tokens"]
    segments = np.array([[1] * 12, [0] * 4 + [1] * 8], np.int32)
    positions = np.maximum(np.cumsum(segments, axis=1, dtype=np.int32) - 1, 0)
    want = tiny_apply({"params": tiny_params}, tokens, positions, segments).logits
    cache, outs = tiny.build(Execution()).init_cache(2, 16), []
    for start, stop in ((0, 8), *((t, t + 1) for t in range(8, 12))):
        part = (slice(None), slice(start, stop))
        out = tiny_apply({"params": tiny_params}, tokens[part], positions[part], segments[part], cache=cache)
        cache = out.cache
        outs.append(out.logits)
    real = segments.astype(bool)
    np.testing.assert_allclose(np.concatenate(outs, axis=1)[real], np.asarray(want)[real], atol=1e-5)
    assert cache.index == 12


@pytest.mark.parametrize(
    "execution",
    few(
        [
            Execution(attention="reference"),
            Execution(unroll=2),
            Execution(unroll=0, remat="full"),
            Execution(remat="dots"),
            Execution(remat="projections"),
            Execution(remat="attention"),
            Execution(remat="projections+attention"),
            Execution(remat="attention-offloaded"),
            Execution(remat="projections+attention-offloaded"),
        ],
        Execution(unroll=0, remat="full"),
        Execution(remat="projections+attention-offloaded"),
    ),
    ids=str,
)
def test_execution_changes_neither_parameters_nor_numbers(execution, tiny, tiny_params, tiny_batch, default_gradients):
    have_shapes = jax.eval_shape(lambda: tiny.build(execution).init(jax.random.key(0), **tiny_batch))["params"]
    assert jax.tree.structure(have_shapes) == jax.tree.structure(tiny.abstract_params())
    for have, want in zip(
        jax.tree.leaves(_gradients(tiny, execution, tiny_params, tiny_batch)),
        jax.tree.leaves(default_gradients),
        strict=True,
    ):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def default_gradients(tiny, tiny_params, tiny_batch):
    return _gradients(tiny, Execution(), tiny_params, tiny_batch)


def _gradients(config, execution, params, batch):
    @jax.jit
    @jax.value_and_grad
    def loss(params):
        out = config.build(execution).apply({"params": params}, **batch)
        weights = (batch["segment_ids"] > 0).astype(np.float32)
        total, weight, _ = cross_entropy(out.hidden_BTD, out.unembedding_VD, batch["tokens"], weights, bias=out.bias_V)
        return total / weight

    return loss(params)


def test_initialisation_is_the_same_however_it_is_run(tiny):
    init = lambda execution: jax.jit(tiny.build(execution).init)(jax.random.key(3), **tiny.example_inputs())  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, init(Execution()), init(Execution(unroll=0, remat="full")))


def test_bfloat16_keeps_parameters_and_logits_in_float32(tiny, tiny_params, tiny_batch, tiny_apply):
    out = tiny.build(Execution(dtype="bfloat16")).apply({"params": tiny_params}, **tiny_batch)
    assert (out.hidden_BTD.dtype, out.unembedding_VD.dtype, out.logits.dtype) == (
        jnp.bfloat16,
        jnp.float32,
        jnp.float32,
    )
    want = tiny_apply({"params": tiny_params}, **tiny_batch).logits
    real = tiny_batch["segment_ids"] > 0
    error = np.linalg.norm((out.logits - want)[real]) / np.linalg.norm(np.asarray(want)[real])
    assert error < 0.03


def test_dropout_acts_in_training_only(tiny, tiny_params, tiny_batch, tiny_apply):
    config = dataclasses.replace(tiny, dropout=0.2)
    apply = jax.jit(config.build(Execution()).apply, static_argnames="deterministic")
    quiet = apply({"params": tiny_params}, **tiny_batch).logits
    np.testing.assert_array_equal(quiet, tiny_apply({"params": tiny_params}, **tiny_batch).logits)
    noisy = [
        apply({"params": tiny_params}, **tiny_batch, deterministic=False, rngs={"dropout": jax.random.key(seed)}).logits
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - noisy[2]).max() > 0.1
    assert np.abs(noisy[0] - quiet).max() > 0.1


@pytest.mark.parametrize(
    ("width", "layers", "heads", "count"),
    [
        (768, 12, 12, 124_439_808),
        (1024, 24, 16, 354_823_168),
        (1280, 36, 20, 774_030_080),
        (1600, 48, 25, 1_557_611_200),
    ],
)
def test_gpt2_parameter_counts(width, layers, heads, count):
    assert GPTConfig(width=width, num_layers=layers, num_heads=heads).num_params() == count


@pytest.mark.parametrize(
    ("billions", "layers", "width", "heads"),
    [
        (0.125, 12, 768, 12),
        (0.350, 24, 1024, 16),
        (0.760, 24, 1536, 16),
        (1.3, 24, 2048, 16),
        (2.7, 32, 2560, 32),
        (6.7, 32, 4096, 32),
        (13.0, 40, 5120, 40),
        (175.0, 96, 12288, 96),
    ],
)
def test_gpt3_sizes_build_abstractly(billions, layers, width, heads):
    """Brown et al. 2020, table 2.1 (XL has 24 heads of 128 there, and 13B a width of 5140: both misprints)."""
    config = GPTConfig(width=width, num_layers=layers, num_heads=heads, context_length=2048)
    assert config.num_params() / 1e9 == pytest.approx(billions, rel=0.04)


@pytest.mark.parametrize("tied", [True, False])
def test_flops_follow_the_compilers_count(tied):
    """XLA counts every product of the dense attention; what the convention leaves out is a few percent at this size."""
    config = GPTConfig(
        vocab_size=1000, context_length=128, width=256, num_layers=2, num_heads=4, dropout=0.0, tie_embeddings=tied
    )
    variables = _abstract(config)[1]
    module = config.build(Execution(attention="reference", unroll=0))
    batch = {name: jax.ShapeDtypeStruct((2, 128), jnp.int32) for name in ("tokens", "positions", "segment_ids")}

    def loss(variables, batch):
        out = module.apply(variables, **batch)
        weights = jnp.ones((2, 128), jnp.float32)
        return cross_entropy(out.hidden_BTD, out.unembedding_VD, batch["tokens"], weights)[0]

    cost = jax.jit(jax.grad(loss)).lower(variables, batch).compile().cost_analysis()
    assert cost["flops"] / (2 * 128) == pytest.approx(config.flops_per_token(128), rel=0.04)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 10, "num_heads": 3}, "num_heads 3 does not divide width 10"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"activation": "gleu"}, "unknown activation 'gleu'; choose from: gelu, gelu_tanh, relu, silu"),
        ({"mlp_width": 0}, "mlp_width is 0"),
    ],
)
def test_impossible_configs_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        GPTConfig(**fields)


def test_inputs_that_do_not_fit_are_refused(tiny):
    module, variables = _abstract(tiny)
    tokens = jax.ShapeDtypeStruct((1, 25), jnp.int32)
    with pytest.raises(ValueError, match="25 tokens for a context of 24"):
        jax.eval_shape(module.apply, variables, tokens)


def test_parameters_are_named_stacked_and_split_into_backbone_and_head(tiny):
    params = tiny.abstract_params()
    assert set(params) == {"backbone", "head"}
    query = params["backbone"]["stack"]["layers"]["attention"]["query"]["kernel"]
    assert query.names == ("layers", "embed", "heads", "head")
    assert query.value.shape == (3, 20, 5, 4)
    tied = dataclasses.replace(tiny, tie_embeddings=True).abstract_params()
    assert jax.tree.structure(tied["backbone"]) == jax.tree.structure(params["backbone"])
    assert "head" not in tied


def test_families_are_listed():
    assert FAMILIES["gpt"] is GPTConfig
