"""Encoder-decoders: who sees whom, caching, packing, execution, dropout, FLOPs. (Parity: tests/interop.)"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models import FAMILIES, architecture_from_dict, architecture_to_dict
from transformer.models.bart import BartConfig
from transformer.models.marian import MarianConfig
from transformer.models.t5 import T5Config
from transformer.models.transformer import TransformerConfig
from transformer.ops.cross_entropy import cross_entropy

POST_NORM = {
    "vocab_size": 37,
    "width": 20,
    "num_encoder_layers": 3,
    "num_decoder_layers": 2,
    "num_encoder_heads": 5,
    "num_decoder_heads": 2,
    "encoder_mlp_width": 28,
    "decoder_mlp_width": 12,
    "decoder_start_id": 3,
    "dropout": 0.0,
}
CONFIGS = {
    "transformer": TransformerConfig(**POST_NORM),
    "bart": BartConfig(**POST_NORM, attention_dropout=0.0, mlp_dropout=0.0, context_length=24),
    "marian": MarianConfig(**POST_NORM, context_length=24),
    "t5": T5Config(
        vocab_size=37,
        width=20,
        num_encoder_layers=3,
        num_decoder_layers=2,
        num_heads=5,
        head_width=3,
        mlp_width=28,
        activation="gelu_tanh",
        gated=True,
        relative_buckets=8,
        relative_distance=6,
        tie_embeddings=False,
        dropout=0.0,
    ),
}
S, T = 9, 7


@dataclasses.dataclass(frozen=True)
class Model:
    """A config, its module, random parameters, and its jitted `apply`."""

    config: Any
    module: Any
    params: Any
    jitted: Any

    def apply(self, **inputs):
        return self.jitted({"params": self.params}, **inputs)


def _params(config):
    """Random parameters, larger than at initialisation, biases too: so that nothing hides behind a zero."""
    shapes = nn.meta.unbox(config.abstract_params())
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(scale=0.3, size=leaf.shape), jnp.float32), shapes)


@pytest.fixture(params=few(CONFIGS, "transformer", "t5"), scope="module")
def model(request):
    config = CONFIGS[request.param]
    module = config.build(Execution())
    return Model(config, module, _params(config), jax.jit(module.apply))


@pytest.fixture(scope="module")
def batch():
    """Two rows: two pairs packed, and padding; one pair, padded on the left of the source and right of the target."""
    rng = np.random.default_rng(1)
    segments = np.array([[1] * 4 + [2] * 3 + [0] * 2, [0] * 2 + [1] * 7], np.int32)
    decoder_segments = np.array([[1] * 2 + [2] * 4 + [0], [1] * 5 + [0] * 2], np.int32)
    return {
        "tokens": rng.integers(0, 37, (2, S)).astype(np.int32),
        "positions": np.array([[0, 1, 2, 3, 0, 1, 2, 0, 0], [0, 0, 0, 1, 2, 3, 4, 5, 6]], np.int32),
        "segment_ids": segments,
        "decoder_tokens": rng.integers(0, 37, (2, T)).astype(np.int32),
        "decoder_positions": np.array([[0, 1, 0, 1, 2, 3, 0], [0, 1, 2, 3, 4, 0, 0]], np.int32),
        "decoder_segment_ids": decoder_segments,
    }


def test_a_target_sees_its_source_and_its_own_past(model, batch):
    """Each token is changed in turn: whose scores change?"""
    want = np.asarray(model.apply(**batch).logits)
    segments, decoder_segments = batch["segment_ids"], batch["decoder_segment_ids"]
    for name, ids in (("tokens", segments), ("decoder_tokens", decoder_segments)):
        for place in range(ids.shape[1]):
            changed = batch[name].copy()
            changed[:, place] = (changed[:, place] + 1) % 37
            have = np.asarray(model.apply(**{**batch, name: changed}).logits)
            differs = np.abs(have - want).max(-1) > 0
            reached = (decoder_segments == ids[:, place, None]) & (decoder_segments > 0)
            if name == "decoder_tokens":
                reached &= np.arange(T) >= place
                reached[:, place] = True  # a token of padding still sees itself, by way of the residual
            np.testing.assert_array_equal(differs, reached)


def test_packed_pairs_score_as_they_do_alone(model, batch):
    packed = model.apply(**batch).logits
    for row, segment in ((0, 1), (0, 2), (1, 1)):
        alone = {name: np.zeros_like(array) for name, array in batch.items()}
        for prefix in ("", "decoder_"):
            here = batch[f"{prefix}segment_ids"][row] == segment
            alone[f"{prefix}segment_ids"][0, : here.sum()] = 1
            for name in (f"{prefix}tokens", f"{prefix}positions"):
                alone[name][0, : here.sum()] = batch[name][row, here]
        have = model.apply(**alone).logits[0, : here.sum()]
        np.testing.assert_allclose(packed[row, here], have, atol=1e-5)


def test_prefill_and_decode_equal_the_uncached_model(model, batch):
    """Target prompts of 2 and 3 tokens, padded on the left, then a token at a time without the source."""
    segments = np.array([[0] + [1] * 6, [1] * 7], np.int32)
    positions = np.maximum(np.cumsum(segments, axis=1, dtype=np.int32) - 1, 0)
    source = {name: batch[name] for name in ("tokens", "positions")}
    source["segment_ids"] = (batch["segment_ids"] > 0).astype(np.int32)
    whole = {"decoder_tokens": batch["decoder_tokens"], "decoder_positions": positions, "decoder_segment_ids": segments}
    want = model.apply(**source, **whole).logits
    cache, outs = model.module.init_cache(2, 10), []
    for start, stop in ((0, 3), *((place, place + 1) for place in range(3, T))):
        part = {name: array[:, start:stop] for name, array in whole.items()}
        out = model.apply(**(source if start == 0 else {}), **part, cache=cache)
        cache = out.cache
        outs.append(out.logits)
    real = segments.astype(bool)
    np.testing.assert_allclose(np.concatenate(outs, axis=1)[real], np.asarray(want)[real], atol=1e-5)
    assert cache.own.index == T
    heads, head_width = model.config.decoder_heads
    assert [array.shape for array in cache.memory] == [(2, 2, S, heads, head_width)] * 2


@pytest.mark.parametrize("model", few(["bart", "t5"], "t5"), indirect=True)
def test_no_segments_and_positions_are_one_segment(model, batch):
    """Left out for both sequences, for one of them, and in a cache."""
    plain = {"tokens": batch["tokens"], "decoder_tokens": batch["decoder_tokens"]}
    ones = np.ones((2, S), np.int32)
    want = model.apply(**plain).logits
    np.testing.assert_allclose(model.apply(**plain, segment_ids=ones).logits, want, atol=1e-5)
    positions = np.tile(np.arange(T, dtype=np.int32), (2, 1))
    out = model.apply(**plain, decoder_positions=positions, cache=model.module.init_cache(2, T))
    np.testing.assert_allclose(out.logits, want, atol=1e-5)
    np.testing.assert_array_equal(out.cache.memory_segment_ids_BS, ones)


def test_encode_gives_what_the_decoder_attends_to(model, batch):
    encode = lambda params: model.module.apply({"params": params}, batch["tokens"], method="encode")  # noqa: E731
    assert jax.eval_shape(encode, model.params).shape == (2, S, 20)


def _gradients(config, execution, params, batch):
    @jax.jit
    @jax.grad
    def loss(params):
        out = config.build(execution).apply({"params": params}, **batch)
        weights = (batch["decoder_segment_ids"] > 0).astype(np.float32)
        targets = batch["decoder_tokens"]
        return cross_entropy(out.hidden_BTD, out.unembedding_VD, targets, weights, bias=out.bias_V)[0]

    return loss(params)


@pytest.mark.parametrize("family", few(["transformer", "t5"], "t5"))
def test_execution_changes_no_gradients(family, batch):
    config = CONFIGS[family]
    params = _params(config)
    want = _gradients(config, Execution(), params, batch)
    have = _gradients(config, Execution(unroll=0, remat="full", attention="reference"), params, batch)
    for one, other in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", few(["bart", "t5"], "t5"), indirect=True)
def test_bfloat16_keeps_parameters_and_logits_in_float32(model, batch):
    out = jax.jit(model.config.build(Execution(dtype="bfloat16")).apply)({"params": model.params}, **batch)
    assert (out.hidden_BTD.dtype, out.unembedding_VD.dtype, out.logits.dtype) == (
        jnp.bfloat16,
        jnp.float32,
        jnp.float32,
    )
    real = batch["decoder_segment_ids"] > 0
    want = np.asarray(model.apply(**batch).logits)[real]
    assert np.linalg.norm(np.asarray(out.logits)[real] - want) / np.linalg.norm(want) < 0.05


@pytest.mark.parametrize("model", few(["bart", "t5"], "t5"), indirect=True)
def test_dropout_acts_in_training_only(model, batch):
    config = dataclasses.replace(model.config, dropout=0.2)
    apply = jax.jit(config.build(Execution()).apply, static_argnames="deterministic")
    noisy = [
        apply({"params": model.params}, **batch, deterministic=False, rngs={"dropout": jax.random.key(seed)}).logits
        for seed in (0, 0, 1)
    ]
    quiet = model.apply(**batch).logits
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.abs(noisy[0] - noisy[2]).max() > 0.1
    assert np.abs(noisy[0] - quiet).max() > 0.1


BIG = {"vocab_size": 1000, "width": 256, "num_encoder_layers": 2, "num_decoder_layers": 3, "dropout": 0.0}
BIG_POST_NORM = {"num_encoder_heads": 4, "num_decoder_heads": 8, "encoder_mlp_width": 512, "decoder_mlp_width": 1024}
BIG_CONFIGS = {
    "post-norm": BartConfig(**BIG, **BIG_POST_NORM, attention_dropout=0.0, mlp_dropout=0.0, activation="relu"),
    "t5": T5Config(**BIG, num_heads=6, head_width=64, mlp_width=512, gated=True),
}


@pytest.mark.parametrize(
    "config",
    few(BIG_CONFIGS.values(), BIG_CONFIGS["t5"]),
    ids=BIG_CONFIGS,
)
def test_flops_follow_the_compilers_count(config):
    """XLA counts every product of the dense attention; what the convention leaves out is a few percent at this size."""
    module = config.build(Execution(attention="reference", unroll=0))
    length, target_length = 128, 96
    batch = {
        f"{prefix}{name}": jax.ShapeDtypeStruct((2, size), jnp.int32)
        for prefix, size in (("", length), ("decoder_", target_length))
        for name in ("tokens", "positions", "segment_ids")
    }

    def loss(params, batch):
        out = module.apply({"params": params}, **batch)
        weights = jnp.ones((2, target_length), jnp.float32)
        return cross_entropy(out.hidden_BTD, out.unembedding_VD, batch["decoder_tokens"], weights)[0]

    params = nn.meta.unbox(config.abstract_params())
    cost = jax.jit(jax.grad(loss)).lower(params, batch).compile().cost_analysis()
    assert cost["flops"] / 2 == pytest.approx(config.flops_per_example(length, target_length), rel=0.04)


@pytest.mark.parametrize("name", CONFIGS)
def test_architectures_go_to_json_and_back(name):
    config = CONFIGS[name]
    assert FAMILIES[name] is type(config)
    assert architecture_from_dict(architecture_to_dict(config)) == config


def test_parameters_are_named_stacked_and_split_into_backbone_and_head():
    params = CONFIGS["t5"].abstract_params()
    assert set(params) == {"backbone", "head"}
    assert set(params["backbone"]) == {"token_embedding", "encoder", "decoder"}
    query = params["backbone"]["decoder"]["stack"]["layers"]["cross_attention"]["query"]["kernel"]
    assert query.names == ("layers", "embed", "heads", "head")
    assert query.value.shape == (2, 20, 5, 3)
    assert set(CONFIGS["bart"].abstract_params()) == {"backbone"}
    assert set(CONFIGS["marian"].abstract_params()["head"]) == {"bias"}


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("transformer", {"width": 25, "num_decoder_heads": 5}, "width is 25: sines and cosines need an even one"),
        ("transformer", {"num_decoder_heads": 3}, "num_decoder_heads 3 does not divide width 20"),
        ("transformer", {"decoder_start_id": 37}, "decoder_start_id 37 is no token: vocab_size is 37"),
        ("transformer", {"num_encoder_layers": 0}, "num_encoder_layers is 0"),
        ("transformer", {"activation": "gleu"}, "unknown activation 'gleu'"),
        ("bart", {"context_length": 0}, "context_length is 0"),
        ("bart", {"classifier_dropout": 1.0}, "classifier_dropout is 1.0"),
        ("marian", {"mlp_dropout": -0.1}, "mlp_dropout is -0.1"),
        ("t5", {"relative_buckets": 6}, "relative_buckets is 6: it must be a multiple of 4"),
        ("t5", {"relative_distance": 4}, "relative_distance is 4: it must be above relative_buckets / 2 = 4"),
        ("t5", {"norm_epsilon": 0.0}, "norm_epsilon is 0.0"),
    ],
)
def test_impossible_configs_are_refused(family, fields, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIGS[family], **fields)


@pytest.mark.parametrize(
    ("family", "inputs", "message"),
    [
        ("bart", {"tokens": 25, "decoder_tokens": 1}, "25 tokens for a context of 24"),
        ("marian", {"tokens": 1, "decoder_tokens": 25}, "25 tokens for a context of 24"),
        ("t5", {"tokens": 3}, "needs decoder_tokens"),
        ("t5", {"decoder_tokens": 3}, "needs tokens, or a cache that holds"),
        ("t5", {"tokens": 3, "decoder_tokens": 3, "cache": 5}, "a cache needs decoder_positions"),
        ("t5", {"decoder_tokens": 3, "decoder_positions": 3, "cache": 5}, "needs tokens, or a cache that holds"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(family, inputs, message):
    module = CONFIGS[family].build(Execution())
    variables = {"params": nn.meta.unbox(CONFIGS[family].abstract_params())}
    arrays = {
        name: module.init_cache(1, size) if name == "cache" else jax.ShapeDtypeStruct((1, size), jnp.int32)
        for name, size in inputs.items()
    }
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda variables, arrays: module.apply(variables, **arrays), variables, arrays)
