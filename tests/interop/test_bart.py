"""BART against Transformers' on random weights, in odd shapes and with every head."""

import dataclasses

import numpy as np
import pytest

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop.bart import BART
from transformer.models.bart import BartConfig

from . import encoder_decoders, parity

END = 2
BASE = BartConfig(
    vocab_size=61,
    context_length=21,
    width=30,
    num_encoder_layers=3,
    num_decoder_layers=2,
    num_encoder_heads=5,
    num_decoder_heads=3,
    encoder_mlp_width=37,
    decoder_mlp_width=22,
    scale_embeddings=True,
)
SHAPES = {
    "language model": BASE,
    "one layer, one head": BartConfig(
        vocab_size=33,
        context_length=40,
        width=7,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_encoder_heads=1,
        num_decoder_heads=7,
        encoder_mlp_width=9,
        decoder_mlp_width=11,
        activation="relu",
        decoder_start_id=0,
    ),
    "sequence classification": dataclasses.replace(BASE, head="sequence_classification", num_labels=3),
    "question answering": dataclasses.replace(BASE, head="question_answering", num_encoder_layers=1),
    "none": dataclasses.replace(BASE, head="none", scale_embeddings=False, activation="gelu_tanh"),
}


@pytest.fixture(params=few(SHAPES, "one layer, one head", "sequence classification", "none"), scope="module")
def pair(request):
    return parity.make_pair(BART, SHAPES[request.param], eos_token_id=END)


def _batch(config):
    if config.head == "sequence_classification":
        return encoder_decoders.rows(config, 14, 14, end=END)
    return encoder_decoders.rows(config, config.context_length - 2, 12)


def test_scores_are_transformers(pair):
    encoder_decoders.assert_scores(pair, _batch(pair.config))


def test_gradients_are_transformers():
    encoder_decoders.assert_gradients(parity.make_pair(BART, BASE), encoder_decoders.rows(BASE, 13, 9))


def test_there_and_back_is_exact(pair):
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    batch = _batch(pair.config)
    parity.assert_reloads(pair, tmp_path / "out", lambda model: encoder_decoders.their_scores(model, batch))


@pytest.fixture(scope="module")
def small():
    """Transformers' tensors of a language model, by every name."""
    return parity.in_memory(parity.make_pair(BART, BASE).theirs)


def test_published_files_are_read(small):
    """Bare, as facebook/bart-large: no prefix, no head, names of versions; the table of words under three names."""
    bare = {name.removeprefix("model."): array for name, array in small.items() if name.startswith("model.")}
    bare |= {"encoder.version": np.ones(1), "decoder.version": np.ones(1)}
    assert {"shared.weight", "encoder.embed_tokens.weight"} < bare.keys()
    have, want = BART.from_hf(bare, BASE), BART.from_hf(small, BASE)
    assert np.array_equal(
        have["backbone"]["token_embedding"]["embedding"], want["backbone"]["token_embedding"]["embedding"]
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.decoder.embed_tokens.weight", "differs from 'model.shared.weight'"),
        ("lm_head.weight", "differs from 'model.shared.weight'"),
        ("final_logits_bias", "is not the constant"),
    ],
)
def test_what_the_architecture_ties_or_leaves_out_is_refused_if_different(small, name, message):
    with pytest.raises(UserError, match=message):
        BART.from_hf({**small, name: small[name] + 1}, BASE)


def test_published_configs_are_read():
    """facebook/bart-large's config.json, with what has since been dropped from the class."""
    config = {
        "_num_labels": 3,
        "activation_dropout": 0.1,
        "activation_function": "gelu",
        "add_bias_logits": False,
        "add_final_layer_norm": False,
        "architectures": ["BartModel"],
        "attention_dropout": 0.1,
        "bos_token_id": 0,
        "classif_dropout": 0.1,
        "classifier_dropout": 0.0,
        "d_model": 1024,
        "decoder_attention_heads": 16,
        "decoder_ffn_dim": 4096,
        "decoder_layerdrop": 0.0,
        "decoder_layers": 12,
        "decoder_start_token_id": 2,
        "dropout": 0.1,
        "early_stopping": True,
        "encoder_attention_heads": 16,
        "encoder_ffn_dim": 4096,
        "encoder_layerdrop": 0.0,
        "encoder_layers": 12,
        "eos_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "gradient_checkpointing": False,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
        "init_std": 0.02,
        "is_encoder_decoder": True,
        "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
        "max_position_embeddings": 1024,
        "model_type": "bart",
        "no_repeat_ngram_size": 3,
        "normalize_before": False,
        "normalize_embedding": True,
        "num_beams": 4,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "scale_embedding": False,
        "task_specific_params": {"summarization": {"length_penalty": 1.0}},
        "torch_dtype": "float32",
        "transformers_version": "4.7.0.dev0",
        "use_cache": True,
        "vocab_size": 50265,
    }
    assert BART.read_config(config, "none").num_params() == 406_291_456


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("normalize_before", True, "normalize_before = True is not supported, only False"),
        ("normalize_embedding", False, "normalize_embedding = False is not supported, only True"),
        ("num_hidden_layers", 3, "num_hidden_layers = 3 is not supported, only encoder_layers's 6"),
        ("encoder_layerdrop", 0.1, "encoder_layerdrop = 0.1 is not supported, only 0.0"),
        ("tie_word_embeddings", False, "tie_word_embeddings = False is not supported, only True"),
        ("activation_function", "mish", "activation_function = 'mish' is not supported"),
        ("rope_theta", 1e4, "unknown fields, which may change the model: rope_theta"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(field, value, message):
    with pytest.raises(UserError, match=message):
        BART.read_config(BART.write_config(BartConfig()) | {field: value}, "language_model")


def test_another_epsilon_is_not_exported():
    assert not BART.fits(dataclasses.replace(BASE, norm_epsilon=1e-6))
