"""What all decoder-only families are held to: a cache that changes nothing, continuations, FLOPs, meshes, heads."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.exhaustive import few
from transformer.inference.decode import generate
from transformer.inference.sampling import Sampling
from transformer.layers.execution import Execution
from transformer.layers.positions import Llama3Scaling
from transformer.models import FAMILIES, architecture_from_dict, architecture_to_dict
from transformer.models.gpt import GPTConfig
from transformer.models.gpt1 import GPT1Config
from transformer.models.llama import LlamaConfig
from transformer.ops.cross_entropy import cross_entropy
from transformer.parallel.layout import param_shardings

CONFIGS = {
    "gpt, banded": GPTConfig(
        vocab_size=38, context_length=24, width=20, num_layers=4, num_heads=2, dropout=0.0, band=3
    ),
    "gpt, banded, scores by layer": GPTConfig(
        vocab_size=38, context_length=24, width=20, num_layers=4, num_heads=2, dropout=0.0, band=3,
        divide_scores_by_layer=True,
    ),
    "gpt1": GPT1Config(vocab_size=38, context_length=24, width=20, num_layers=2, num_heads=2, dropout=0.0),
    "llama": LlamaConfig(
        vocab_size=38, context_length=24, width=20, num_layers=2, num_heads=4, num_kv_heads=2, head_width=6,
        mlp_width=28, window=5, head_norms=True, attention_biases="all", mlp_biases=True,
        rotary_base=100.0, rotary_scaling=Llama3Scaling(2.0, 1.0, 4.0, 12),
    ),
}  # fmt: skip


@pytest.fixture(params=few(CONFIGS, "gpt, banded, scores by layer", "llama"), scope="module")
def config(request):
    return CONFIGS[request.param]


def _rows(config, length=16):
    """Two rows of tokens, the second padded on the left."""
    segments = np.ones((2, length), np.int32)
    segments[1, :4] = 0
    positions = np.maximum(np.cumsum(segments, axis=1, dtype=np.int32) - 1, 0)
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, segments.shape).astype(np.int32)
    return tokens, positions, segments


@pytest.mark.parametrize("config", few(CONFIGS, "llama"), indirect=True, scope="module")
def test_prefill_and_decode_equal_the_uncached_model(config, params, apply):
    """A prompt longer than any window, a chunk of two, then a token at a time."""
    tokens, positions, segments = _rows(config)
    want = apply({"params": params}, tokens, positions, segments).logits
    cache, outs = config.build(Execution()).init_cache(2, 20), []
    for start, stop in ((0, 10), (10, 12), *((t, t + 1) for t in range(12, 16))):
        part = (slice(None), slice(start, stop))
        out = apply({"params": params}, tokens[part], positions[part], segments[part], cache=cache)
        cache = out.cache
        outs.append(out.logits)
    real = segments.astype(bool)
    np.testing.assert_allclose(np.concatenate(outs, axis=1)[real], np.asarray(want)[real], atol=1e-5)
    assert cache.index == 16


def test_a_packed_document_scores_as_it_does_alone(config, params, apply):
    tokens, positions, segments = _rows(config)
    positions[:] = np.tile(np.arange(8), 2)
    alone = apply(
        {"params": params}, tokens, positions, np.repeat(np.array([[0, 1]], np.int32), 8, axis=1).repeat(2, axis=0)
    ).logits
    packed = apply(
        {"params": params}, tokens, positions, np.repeat(np.array([[1, 2]], np.int32), 8, axis=1).repeat(2, axis=0)
    ).logits
    np.testing.assert_allclose(packed[:, 8:], alone[:, 8:], atol=1e-5)
    other = apply({"params": params}, tokens, positions, np.ones_like(segments)).logits
    assert np.abs(other[:, 8:] - alone[:, 8:]).max() > 0.1


def test_a_continuation_is_what_the_uncached_model_finds_likeliest(config, params, apply):
    """Until the context is full."""
    model, prompt = config.build(Execution()), [3, 1, 4, 1, 5, 9, 2, 6]
    [[generated]] = generate(model, params, [prompt], max_new_tokens=99, how=Sampling(temperature=0.0))
    new = generated.tokens
    assert len(new) == config.context_length - len(prompt)
    logits = apply({"params": params}, np.array([prompt + new])).logits[0]
    np.testing.assert_array_equal(np.argmax(logits[len(prompt) - 1 : -1], axis=-1), new)


def test_a_window_hides_what_is_before_it(config, params, apply):
    """The reach of the last token, through as many layers as there are."""
    reach = {
        "gpt": config.context_length,
        "gpt1": config.context_length,
        "llama": config.num_layers * ((getattr(config, "window", None) or 0) - 1),
    }[config.family]
    tokens, positions, segments = _rows(config)
    want = np.asarray(apply({"params": params}, tokens, positions, segments).logits)
    for back in range(1, 16):
        other = tokens.copy()
        other[0, 15 - back] += 1
        have = apply({"params": params}, other, positions, segments).logits
        assert (np.abs(have[0, 15] - want[0, 15]).max() > 0) == (back <= reach)


def test_flops_follow_the_compilers_count(config):
    """XLA counts every product of the dense attention; what the convention leaves out is a few percent at this size."""
    larger = {"vocab_size": 1000, "context_length": 128, "width": 256, "num_heads": 4, "num_layers": 2}
    if config.family == "llama":
        larger |= {"head_width": 96, "mlp_width": 700, "window": None}
    else:
        larger |= {"band": None} if config.family == "gpt" else {}
    config = dataclasses.replace(config, **larger)
    module = config.build(Execution(attention="reference", unroll=0))
    variables = {"params": nn.meta.unbox(config.abstract_params())}
    batch = {name: jax.ShapeDtypeStruct((2, 128), jnp.int32) for name in ("tokens", "positions", "segment_ids")}

    def loss(variables, batch):
        out = module.apply(variables, **batch)
        weights = jnp.ones((2, 128), jnp.float32)
        return cross_entropy(out.hidden_BTD, out.unembedding_VD, batch["tokens"], weights)[0]

    cost = jax.jit(jax.grad(loss)).lower(variables, batch).compile().cost_analysis()
    assert cost["flops"] / (2 * 128) == pytest.approx(config.flops_per_token(128), rel=0.04)


def test_a_mesh_gives_the_one_device_scores(config, params, apply, mesh_2x2x2):
    tokens, positions, segments = (np.tile(array, (2, 1)) for array in _rows(config))
    want = np.asarray(apply({"params": params}, tokens, positions, segments).logits)
    with jax.set_mesh(mesh_2x2x2):
        placed = jax.device_put(params, param_shardings(config.abstract_params(), mesh_2x2x2))
        batch = jax.device_put(
            (tokens, positions, segments), NamedSharding(mesh_2x2x2, PartitionSpec(("data", "fsdp")))
        )
        have = apply({"params": placed}, *batch).logits
    real = segments > 0
    np.testing.assert_allclose(np.asarray(have)[real], want[real], atol=1e-5)


@pytest.mark.parametrize("config", few(CONFIGS, "llama"), indirect=True, scope="module")
def test_bfloat16_and_remat_run_with_finite_gradients(config, params):
    module = config.build(Execution(dtype="bfloat16", remat="full"))
    tokens, positions, segments = _rows(config)

    @jax.jit
    @jax.grad
    def gradients(params):
        out = module.apply({"params": params}, tokens, positions, segments)
        assert out.hidden_BTD.dtype == jnp.bfloat16
        return jnp.square(out.logits).mean()

    for leaf in jax.tree.leaves(gradients(params)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()


@pytest.mark.parametrize("config", few(CONFIGS, "llama"), indirect=True, scope="module")
def test_dropout_acts_in_training_only(config, params, apply):
    rate = {"attention_dropout": 0.3} if config.family == "llama" else {"dropout": 0.3}
    tokens, positions, segments = _rows(config)
    module = dataclasses.replace(config, **rate).build(Execution())
    noisy = jax.jit(
        lambda seed: module.apply(
            {"params": params}, tokens, positions, segments,
            deterministic=False, rngs={"dropout": jax.random.key(seed)},
        ).logits
    )  # fmt: skip
    np.testing.assert_array_equal(noisy(0), noisy(0))
    assert np.abs(noisy(0) - noisy(1)).max() > 0.1
    quiet = apply({"params": params}, tokens, positions, segments).logits
    np.testing.assert_allclose(module.apply({"params": params}, tokens, positions, segments).logits, quiet, atol=1e-5)


@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ("sequence_classification", (2, 3)),
        ("token_classification", (2, 16, 3)),
        ("question_answering", (2, 16, 2)),
        ("none", (2, 16, 20)),
    ],
)
def test_heads_have_their_shapes(head, shape, config):
    config = dataclasses.replace(config, head=head, num_labels=3)
    variables = {"params": nn.meta.unbox(config.abstract_params())}
    out = jax.eval_shape(config.build(Execution()).apply, variables, *_rows(config))
    assert (out.hidden_BTD if head == "none" else out.logits).shape == shape
    assert set(variables["params"]) == ({"backbone"} if head == "none" else {"backbone", "head"})


def test_architectures_survive_json(config):
    assert FAMILIES[config.family] is type(config)
    assert architecture_from_dict(architecture_to_dict(config)) == config
