"""Marian against Transformers' on random weights, in odd shapes."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop.marian import MARIAN
from transformer.models.marian import MarianConfig

from . import encoder_decoders, parity

BASE = MarianConfig(
    vocab_size=61,
    decoder_start_id=60,
    context_length=21,
    width=30,
    num_encoder_layers=3,
    num_decoder_layers=2,
    num_encoder_heads=5,
    num_decoder_heads=3,
    encoder_mlp_width=37,
    decoder_mlp_width=22,
)
SHAPES = {
    "language model": BASE,
    # Sinusoids far from 0, which float32 angles would miss by 3e-5.
    "long, one layer, one head": MarianConfig(
        vocab_size=33,
        decoder_start_id=0,
        context_length=512,
        width=14,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_encoder_heads=1,
        num_decoder_heads=7,
        encoder_mlp_width=9,
        decoder_mlp_width=11,
        activation="relu",
        scale_embeddings=False,
    ),
    "none": dataclasses.replace(BASE, head="none", num_decoder_layers=3),
}


def _make_pair(config):
    def with_bias(model):
        """OPUS-MT's biases are buffers, and not zero."""
        if config.head != "none":
            bias = np.random.default_rng(0).normal(size=(1, config.vocab_size)).astype(np.float32)
            model.final_logits_bias.copy_(torch.tensor(bias))

    # A padding id would take its row's gradient away.
    return parity.make_pair(MARIAN, config, change=with_bias, pad_token_id=None)


@pytest.fixture(params=few(SHAPES, "long, one layer, one head"), scope="module")
def pair(request):
    return _make_pair(SHAPES[request.param])


def _batch(config):
    return encoder_decoders.rows(config, config.context_length, config.context_length - 5)


def test_scores_are_transformers(pair):
    encoder_decoders.assert_scores(pair, _batch(pair.config))


def test_gradients_are_transformers():
    encoder_decoders.assert_gradients(_make_pair(BASE), encoder_decoders.rows(BASE, 13, 9))


def test_there_and_back_is_exact(pair):
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    batch = encoder_decoders.rows(pair.config, 9, 7)
    parity.assert_reloads(pair, tmp_path / "out", lambda model: encoder_decoders.their_scores(model, batch))


def test_other_sinusoids_are_refused_and_missing_ones_are_not():
    tensors = parity.in_memory(_make_pair(BASE).theirs)
    name = "model.encoder.embed_positions.weight"
    with pytest.raises(UserError, match="is not the constant"):
        MARIAN.from_hf({**tensors, name: tensors[name][:, ::-1]}, BASE)
    MARIAN.from_hf({key: array for key, array in tensors.items() if "embed_positions" not in key}, BASE)


OPUS = {
    "_name_or_path": "/tmp/Helsinki-NLP/opus-mt-en-de",
    "_num_labels": 3,
    "activation_dropout": 0.0,
    "activation_function": "swish",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "architectures": ["MarianMTModel"],
    "attention_dropout": 0.0,
    "bad_words_ids": [[58100]],
    "bos_token_id": 0,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "d_model": 512,
    "decoder_attention_heads": 8,
    "decoder_ffn_dim": 2048,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 6,
    "decoder_start_token_id": 58100,
    "decoder_vocab_size": 58101,
    "dropout": 0.1,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 6,
    "eos_token_id": 0,
    "extra_pos_embeddings": 58101,
    "force_bos_token_to_be_generated": False,
    "forced_eos_token_id": 0,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
    "max_length": 512,
    "max_position_embeddings": 512,
    "model_type": "marian",
    "normalize_before": False,
    "normalize_embedding": False,
    "num_beams": 6,
    "num_hidden_layers": 6,
    "pad_token_id": 58100,
    "scale_embedding": True,
    "share_encoder_decoder_embeddings": True,
    "static_position_embeddings": True,
    "transformers_version": "4.22.0.dev0",
    "use_cache": True,
    "vocab_size": 58101,
}
"""opus-mt-en-de's config.json."""


def test_published_configs_are_read():
    assert MARIAN.read_config(OPUS, "language_model") == MarianConfig()
    older = {name: value for name, value in OPUS.items() if not name.startswith(("decoder_vocab", "share_encoder"))}
    assert MARIAN.read_config(older, "language_model") == MarianConfig()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("static_position_embeddings", False, "static_position_embeddings = False is not supported, only True"),
        ("normalize_embedding", True, "normalize_embedding = True is not supported, only False"),
        ("share_encoder_decoder_embeddings", False, "share_encoder_decoder_embeddings = False is not supported"),
        ("decoder_vocab_size", 100, "vocab_size, decoder_vocab_size that differ are not supported"),
        ("decoder_layerdrop", 0.1, "decoder_layerdrop = 0.1 is not supported, only 0.0"),
        ("rope_theta", 1e4, "unknown fields, which may change the model: rope_theta"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(field, value, message):
    with pytest.raises(UserError, match=message):
        MARIAN.read_config(OPUS | {field: value}, "language_model")
