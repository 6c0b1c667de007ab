"""SpanBERT: as a BERT of Transformers', and its boundary head as the paper's equations, in float64."""

import dataclasses
import math

import flax.linen as nn
import jax
import numpy as np
import pytest

from transformer.errors import UserError
from transformer.interop import families
from transformer.interop.bert import BERT
from transformer.interop.spanbert import SPANBERT
from transformer.layers.execution import Execution
from transformer.models.bert import BertConfig
from transformer.models.spanbert import SpanBertConfig
from transformer.transfer.graft import graft

from . import encoders, parity
from .encoders import (  # noqa: F401 - held for the pairs below
    test_scores_are_transformers,
    test_there_and_back_is_exact,
    test_transformers_loads_what_is_written,
)

SHAPE = SpanBertConfig(vocab_size=61, context_length=19, width=30, num_layers=2, num_heads=5, mlp_width=44)
HEADS = {
    "masked_lm": SHAPE,
    "question_answering": dataclasses.replace(SHAPE, num_layers=1, num_heads=3),
    "none": dataclasses.replace(SHAPE, width=21, num_heads=7),
}


pair = encoders.pairs(SPANBERT, HEADS, *HEADS)


def test_it_is_exported_as_a_bert_unless_its_boundary_head_is_on(pair):
    assert families.of_architecture(pair.config) is SPANBERT
    assert families.of_folder(SPANBERT.write_config(pair.config)) is BERT
    with pytest.raises(UserError, match="Transformers has no model of this spanbert architecture"):
        families.of_architecture(SHAPE)


def test_a_berts_weights_start_it():
    """A folder of SpanBERT's is a BERT's; its backbone's parameters are SpanBERT's."""
    sizes = {field.name: getattr(SHAPE, field.name) for field in dataclasses.fields(BertConfig)}
    bert = BertConfig(**{**sizes, "head": "masked_lm"})
    of_bert, of_span = (nn.meta.unbox(config.abstract_params()) for config in (bert, SHAPE))
    assert jax.tree.map(lambda leaf: leaf.shape, of_bert["backbone"]) == jax.tree.map(
        lambda leaf: leaf.shape, of_span["backbone"]
    )
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), of_bert)
    _, new, left = graft(bert, SHAPE, params)
    assert not left
    assert all(name.startswith("boundary/") for name in new)


@pytest.fixture(scope="module")
def pretraining():
    """Random parameters, larger than at initialisation, a batch with spans, and the model's outputs."""
    rng = np.random.default_rng(0)
    shapes = nn.meta.unbox(SHAPE.abstract_params())
    params = jax.tree.map(lambda leaf: rng.normal(scale=0.2, size=leaf.shape).astype(np.float32), shapes)
    batch = parity.rows(SHAPE, 13)
    spans = {
        "masked_positions": [[2, 3, 4, 11], [5, 6, 9, 0], [1, 2, 7, 0]],
        "boundary_left": [[1, 1, 1, 10], [4, 4, 8, 0], [0, 0, 6, 0]],
        "boundary_right": [[5, 5, 5, 12], [7, 7, 10, 0], [3, 3, 8, 0]],
        "boundary_offset": [[0, 1, 2, 0], [0, 1, 0, 0], [0, 1, 0, 0]],
    }
    batch |= {name: np.array(places, np.int32) for name, places in spans.items()}
    return params, batch, jax.jit(SHAPE.build(Execution()).apply)({"params": params}, **batch)


def test_the_boundary_head_is_the_papers(pretraining):
    """Joshi et al. 2020, section 3.2: h0 = [x_s-1; x_e+1; p], h1 = LN(GeLU(W1 h0)), y = LN(GeLU(W2 h1)) E^T + b."""
    params, batch, out = pretraining
    bare = dataclasses.replace(SHAPE, head="unpooled")
    tokens = {name: batch[name] for name in ("tokens", "positions", "segment_ids")}
    states = jax.jit(bare.build(Execution()).apply)({"params": {"backbone": params["backbone"]}}, **tokens)
    x = np.asarray(states.hidden_BTD, np.float64)
    head = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["boundary"])
    erf = np.vectorize(math.erf)
    table = np.asarray(params["backbone"]["token_embedding"]["embedding"], np.float64)

    def layer(h, name):
        h = h @ head[name]["kernel"] + head[name]["bias"]
        h = h * 0.5 * (1 + erf(h / math.sqrt(2)))
        centred = h - h.mean(-1, keepdims=True)
        norm = head[f"{name}_norm"]
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * norm["scale"] + norm["bias"]

    for row in range(3):
        for place in range(4):
            at = {name: batch[f"boundary_{name}"][row, place] for name in ("left", "right", "offset")}
            offset = head["offset_embedding"]["embedding"][at["offset"]]
            h0 = np.concatenate([x[row, at["left"]], x[row, at["right"]], offset])
            want = layer(layer(h0, "first"), "second") @ table.T + head["unembedding"]["bias"]
            np.testing.assert_allclose(out.boundary.logits[row, place], want, atol=1e-5, rtol=0)


def test_the_two_losses_have_their_own_parameters(pretraining):
    """The masked words' scores are those without boundaries, and there is no sentence head."""
    params, batch, out = pretraining
    assert set(params) == {"backbone", "head", "boundary"}
    assert out.sentence_B2 is None
    without = {name: array for name, array in batch.items() if not name.startswith("boundary")}
    plain = jax.jit(SHAPE.build(Execution()).apply)({"params": params}, **without)
    assert plain.boundary is None
    np.testing.assert_allclose(plain.logits, out.logits, atol=1e-6)


def test_half_a_boundary_is_refused(pretraining):
    params, batch, _ = pretraining
    batch = {name: array for name, array in batch.items() if name != "boundary_right"}
    with pytest.raises(ValueError, match="boundary_left needs boundary_right and boundary_offset"):
        jax.eval_shape(SHAPE.build(Execution()).apply, {"params": params}, **batch)
