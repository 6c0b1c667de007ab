"""What all encoder-only families are held to: counts, FLOPs, segments, masked places, meshes, heads, dropout."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.exhaustive import few
from tests.tiny_models import random_params
from transformer.errors import UserError
from transformer.layers.execution import Execution
from transformer.models import FAMILIES, architecture_from_dict, architecture_to_dict
from transformer.models.albert import AlbertConfig
from transformer.models.bert import BertConfig
from transformer.models.distilbert import DistilBertConfig
from transformer.models.roberta import RobertaConfig
from transformer.models.spanbert import SpanBertConfig
from transformer.ops.cross_entropy import cross_entropy
from transformer.parallel.layout import param_shardings

SIZES = {
    "vocab_size": 38, "context_length": 24, "width": 20, "num_layers": 2, "num_heads": 2, "mlp_width": 28,
    "dropout": 0.0, "attention_dropout": 0.0,
}  # fmt: skip
CONFIGS = {
    "bert": BertConfig(**SIZES, head="pretraining"),
    "roberta": RobertaConfig(**SIZES),
    "albert": AlbertConfig(**SIZES, embedding_width=6, classifier_dropout=0.0, head="pretraining"),
    "distilbert": DistilBertConfig(**SIZES),
    "spanbert": SpanBertConfig(**SIZES, boundary_offsets=4, boundary_width=5),
}


@pytest.fixture(params=few(CONFIGS, "bert", "albert", "spanbert"), scope="module")
def config(request):
    return CONFIGS[request.param]


def _inputs(config, rows=4, length=16):
    """Rows of two packed segments, every second one padded; with what the family is pretrained on."""
    segments = np.tile(np.array([[1] * 7 + [2] * 9, [1] * 7 + [2] * 6 + [0] * 3], np.int32), (rows // 2, 1))
    positions = np.tile(np.array([*range(7), *range(9)], np.int32), (rows, 1))
    tokens = np.random.default_rng(1).integers(0, config.vocab_size, (rows, length)).astype(np.int32)
    inputs = {"tokens": tokens, "positions": positions, "segment_ids": segments}
    inputs["masked_positions"] = np.tile(np.array([[2, 3, 11]], np.int32), (rows, 1))
    if config.family == "spanbert":
        around = {"left": [1, 1, 10], "right": [4, 4, 12], "offset": [0, 1, 0]}
        inputs |= {f"boundary_{name}": np.tile(np.array([at], np.int32), (rows, 1)) for name, at in around.items()}
    elif config.family in ("bert", "albert"):
        inputs["token_types"] = np.minimum(segments, 1) * (positions % 2)
    return inputs


def _scores(out):
    """Returns all scores, side by side."""
    found = [out.logits]
    if getattr(out, "boundary", None) is not None:
        found.append(out.boundary.logits)
    if getattr(out, "sentence_B2", None) is not None:
        found.append(out.sentence_B2)
    return found


def _unmasked(inputs):
    """Returns inputs that ask for the words of all tokens."""
    return {name: array for name, array in inputs.items() if name != "masked_positions"}


def test_masked_positions_are_rows_of_the_full_output(config, params, apply):
    inputs = _inputs(config)
    places = inputs["masked_positions"]
    picked = apply({"params": params}, **inputs)
    full = apply({"params": params}, **_unmasked(inputs))
    assert picked.logits.shape == (4, 3, 38)
    np.testing.assert_allclose(picked.logits, np.take_along_axis(full.logits, places[:, :, None], 1), atol=1e-5)


def test_a_packed_segment_scores_as_it_does_alone(config, params, apply):
    """Its tokens see neither another segment nor padding, and both sides of themselves."""
    inputs = _unmasked(_inputs(config))
    packed = apply({"params": params}, **inputs).logits
    names = inputs.keys() & {"tokens", "token_types"}
    alone = apply({"params": params}, **{name: inputs[name][1:2, 7:13] for name in names}).logits
    np.testing.assert_allclose(packed[1, 7:13], alone[0], atol=1e-5)
    other = inputs["tokens"].copy()
    other[0, 6] += 1
    changed = apply({"params": params}, **{**inputs, "tokens": other}).logits
    assert (np.abs(changed - packed)[0].max(-1) > 0).tolist() == [True] * 7 + [False] * 9


def test_a_mesh_gives_the_one_device_scores(config, params, apply, mesh_2x2x2):
    inputs = _inputs(config)
    want = _scores(apply({"params": params}, **inputs))
    with jax.set_mesh(mesh_2x2x2):
        placed = jax.device_put(params, param_shardings(config.abstract_params(), mesh_2x2x2))
        batch = jax.device_put(inputs, NamedSharding(mesh_2x2x2, PartitionSpec(("data", "fsdp"))))
        have = _scores(apply({"params": placed}, **batch))
    for ours, reference in zip(have, want, strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-5)


@pytest.mark.parametrize("name", few(["albert", "spanbert"], "albert"))
def test_bfloat16_and_remat_run_and_every_parameter_has_a_gradient(name):
    config = CONFIGS[name]
    module, inputs = config.build(Execution(dtype="bfloat16", remat="full")), _inputs(config)

    @jax.jit
    @jax.grad
    def gradients(params):
        out = module.apply({"params": params}, **inputs)
        assert out.hidden_BTD.dtype == jnp.bfloat16
        assert all(scores.dtype == jnp.float32 for scores in _scores(out))
        return sum(jnp.square(scores).mean() for scores in _scores(out))

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(random_params(config))):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
        # A key's bias moves all scores of a query alike, which softmax does not see.
        assert np.abs(leaf).max() > 0 or "key" in jax.tree_util.keystr(path)


def test_dropout_has_three_places():
    """Embeddings and sublayers, attention, the classification head: each alone makes scores follow the seed."""
    shape = dataclasses.replace(CONFIGS["albert"], head="sequence_classification", num_layers=1)
    params, inputs = random_params(shape), _unmasked(_inputs(shape))
    rates = ("dropout", "attention_dropout", "classifier_dropout")
    modules = [dataclasses.replace(shape, **{rate: 0.3}).build(Execution()) for rate in rates]

    @jax.jit
    def noisy(seed):
        rngs = {"dropout": jax.random.key(seed)}
        apply = lambda module: module.apply({"params": params}, **inputs, deterministic=False, rngs=rngs)  # noqa: E731
        return [apply(module).logits for module in modules]

    first, again, other = noisy(0), noisy(0), noisy(1)
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, same)
        assert np.abs(one - different).max() > 1e-3


@pytest.mark.parametrize("config", few(CONFIGS, "albert"), indirect=True, scope="module")
def test_flops_follow_the_compilers_count(config):
    """XLA counts every product of the dense attention; what the convention leaves out is a few percent at this size."""
    sizes = {"vocab_size": 1000, "context_length": 128, "width": 256, "num_heads": 4, "mlp_width": 1024}
    narrow = {"embedding_width": 64} if config.family == "albert" else {}
    config = dataclasses.replace(config, **sizes, **narrow)
    module = config.build(Execution(attention="reference", unroll=0))
    variables = {"params": nn.meta.unbox(config.abstract_params())}
    names = ["tokens", "positions", "segment_ids"]
    if config.family == "spanbert":
        names += ["boundary_left", "boundary_right", "boundary_offset"]
    batch = {name: jax.ShapeDtypeStruct((2, 128), jnp.int32) for name in names}

    def loss(variables, batch):
        out = module.apply(variables, **batch)
        weights = jnp.ones((2, 128), jnp.float32)
        heads = [out] + ([out.boundary] if config.family == "spanbert" else [])
        words = sum(cross_entropy(h.hidden_BTD, h.unembedding_VD, batch["tokens"], weights)[0] for h in heads)
        return words + (out.sentence_B2.sum() if config.family in ("bert", "albert") else 0.0)

    cost = jax.jit(jax.grad(loss)).lower(variables, batch).compile().cost_analysis()
    assert cost["flops"] / (2 * 128) == pytest.approx(config.flops_per_token(128), rel=0.04)


@pytest.mark.parametrize("config", few(CONFIGS, "bert"), indirect=True, scope="module")
@pytest.mark.parametrize(
    ("head", "shape"),
    [
        ("masked_lm", (4, 16, 38)),
        ("next_sentence", (4, 2)),
        ("sequence_classification", (4, 3)),
        ("token_classification", (4, 16, 3)),
        ("question_answering", (4, 16, 2)),
        ("multiple_choice", (4, 1)),
        ("none", (4, 16, 20)),
        ("unpooled", (4, 16, 20)),
    ],
)
def test_heads_have_their_shapes(head, shape, config):
    if head not in config.heads:
        with pytest.raises(UserError, match=f"unknown head '{head}'; choose from: masked_lm"):
            dataclasses.replace(config, head=head)
        return
    config = dataclasses.replace(config, head=head, num_labels=3)
    variables = {"params": nn.meta.unbox(config.abstract_params())}
    inputs = {name: _inputs(config)[name] for name in ("tokens", "positions", "segment_ids")}
    module, pooled = config.build(Execution()), head in config.pooled_heads

    def scores(variables):
        out = module.apply(variables, **inputs)
        if head not in ("none", "unpooled"):
            return out.logits
        assert (out.pooled_BD is not None) == pooled
        return out.hidden_BTD

    assert jax.eval_shape(scores, variables).shape == shape
    own = {"none": set(), "unpooled": set(), "next_sentence": {"sentence"}}.get(head, {"head"})
    assert set(variables["params"]) == {"backbone", *own, *(["pooler"] if pooled else [])}
    assert config.flops_per_example(16) > 0


def test_architectures_survive_json(config):
    assert FAMILIES[config.family] is type(config)
    assert architecture_from_dict(architecture_to_dict(config)) == config


def test_inputs_that_do_not_fit_are_refused(config):
    module, variables = config.build(Execution()), {"params": nn.meta.unbox(config.abstract_params())}
    with pytest.raises(ValueError, match="25 tokens for a context of 24"):
        jax.eval_shape(module.apply, variables, jnp.zeros((1, 25), jnp.int32))
    if config.family == "distilbert":
        zeros = jnp.zeros((1, 2), jnp.int32)
        with pytest.raises(ValueError, match="no token types"):
            jax.eval_shape(module.apply, variables, zeros, token_types=zeros)


LARGE = {"width": 1024, "num_layers": 24, "num_heads": 16, "mlp_width": 4096}


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (BertConfig(head="none"), 109_482_240),
        (BertConfig(head="pretraining"), 110_106_428),
        (BertConfig(head="masked_lm"), 109_514_298),
        (BertConfig(**LARGE, head="none"), 335_141_888),
        (RobertaConfig(), 124_697_433),
        (RobertaConfig(**LARGE), 355_412_057),
        (AlbertConfig(), 11_221_680),
        (AlbertConfig(head="none"), 11_683_584),
        (DistilBertConfig(head="none"), 66_362_880),
        (DistilBertConfig(), 66_985_530),
        # The boundary head: 20 offsets of 200, two layers with norms, a bias a word.
        (SpanBertConfig(), 108_340_804 + 20 * 200 + 1736 * 768 + 768**2 + 2 * 3 * 768 + 28996),
    ],
    ids=lambda value: value.family if isinstance(value, BertConfig) else "",
)
def test_published_parameter_counts(config, count):
    assert config.num_params() == count


def test_albert_stores_one_block_however_deep():
    shallow, deep = AlbertConfig(num_layers=1), AlbertConfig(num_layers=24)
    assert shallow.num_params() == deep.num_params()
    assert deep.flops_per_example(64) > 10 * shallow.flops_per_example(64)
    query = deep.abstract_params()["backbone"]["stack"]["layers"]["attention"]["query"]["kernel"]
    assert query.names == ("embed", "heads", "head")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BertConfig(width=10, num_heads=3), "num_heads 3 does not divide width 10"),
        (lambda: BertConfig(num_token_types=0), "num_token_types is 0"),
        (lambda: BertConfig(attention_dropout=1.0), "attention_dropout is 1.0"),
        (lambda: BertConfig(norm_epsilon=0.0), "norm_epsilon is 0.0"),
        (lambda: RobertaConfig(activation="gleu"), "unknown activation 'gleu'"),
        (lambda: AlbertConfig(embedding_width=0), "embedding_width is 0"),
        (lambda: DistilBertConfig(answer_dropout=-0.1), "answer_dropout is -0.1"),
        (lambda: SpanBertConfig(boundary_offsets=0), "boundary_offsets is 0"),
    ],
)
def test_impossible_configs_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
