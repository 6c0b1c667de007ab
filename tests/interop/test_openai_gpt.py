"""GPT against Transformers' on random weights, in odd shapes, and there and back."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from transformer.errors import UserError
from transformer.interop.gpt1 import OPENAI_GPT
from transformer.models.gpt1 import GPT1Config

from . import decoders, parity

SHAPES = {
    "tied": GPT1Config(vocab_size=61, context_length=21, width=30, num_layers=3, num_heads=5),
    "untied, one layer": GPT1Config(
        vocab_size=33, context_length=40, width=14, num_layers=1, num_heads=7, tie_embeddings=False, norm_epsilon=1e-2
    ),
    "relu, sequences": GPT1Config(
        vocab_size=101, context_length=80, width=17, num_layers=2, num_heads=1, activation="relu",
        head="sequence_classification", num_labels=3,
    ),
    "silu, backbone": GPT1Config(
        vocab_size=7, context_length=19, width=24, num_layers=4, num_heads=2, activation="silu", head="none"
    ),
}  # fmt: skip


@pytest.fixture(params=SHAPES, scope="module")
def pair(request):
    return decoders.make_pair(OPENAI_GPT, SHAPES[request.param])


def test_scores_are_transformers(pair):
    decoders.assert_scores(pair, 19)


def test_there_and_back_is_exact(pair):
    assert OPENAI_GPT.fits(pair.config)
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    decoders.assert_reloads(pair, tmp_path / "out")


def test_gradients_are_transformers():
    decoders.assert_gradients(decoders.make_pair(OPENAI_GPT, SHAPES["tied"]), 19)


PUBLISHED = {
    "afn": "gelu", "architectures": ["OpenAIGPTLMHeadModel"], "attn_pdrop": 0.1, "embd_pdrop": 0.1,
    "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "openai-gpt", "n_ctx": 512, "n_embd": 768,
    "n_head": 12, "n_layer": 12, "n_positions": 512, "n_special": 0, "predict_special_tokens": True,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 40478,
}  # fmt: skip


def test_the_published_config_is_read():
    assert OPENAI_GPT.read_config(PUBLISHED, "language_model") == GPT1Config()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("afn", "gelu_new", "afn = 'gelu_new' is not supported"),
        ("attn_pdrop", 0.2, "resid_pdrop, embd_pdrop, attn_pdrop that differ"),
        ("n_special", 3, "n_special = 3 is not supported"),
        ("model_type", "gpt2", "model_type is 'gpt2'"),
        ("rope_theta", 1e4, "unknown fields, which may change the model: rope_theta"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(field, value, message):
    with pytest.raises(UserError, match=message):
        OPENAI_GPT.read_config(PUBLISHED | {field: value}, "language_model")


@pytest.mark.parametrize("fields", [{"activation": "gelu"}, {"head": "question_answering"}], ids=str)
def test_what_transformers_lacks_does_not_fit(fields):
    assert not OPENAI_GPT.fits(dataclasses.replace(GPT1Config(), **fields))


def test_a_bare_backbone_and_old_buffers_are_read():
    config = SHAPES["tied"]
    rng = np.random.default_rng(0)
    shapes = nn.meta.unbox(config.abstract_params())
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    bare = {
        name.removeprefix("transformer."): tensor for name, tensor in dict(OPENAI_GPT.stream(params, config)).items()
    }
    bare["h.0.attn.bias"] = np.tril(np.ones((1, 1, 19, 19), np.float32))
    bare["position_ids"] = np.arange(19, dtype=np.float32)
    jax.tree.map(np.testing.assert_array_equal, OPENAI_GPT.from_hf(bare, config), params)
