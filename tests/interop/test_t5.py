"""T5 1.0, T5 1.1 and mT5 against Transformers' on random weights, in odd shapes."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop.family import Family
from transformer.interop.t5 import MT5, T5
from transformer.models.t5 import T5Config

from . import encoder_decoders, parity

END = 1
BASE = T5Config(
    vocab_size=61,
    width=30,
    num_encoder_layers=3,
    num_decoder_layers=2,
    num_heads=5,
    head_width=7,
    mlp_width=37,
    relative_buckets=8,
    relative_distance=9,
)
GATED = T5Config(
    vocab_size=33,
    width=17,
    num_encoder_layers=1,
    num_decoder_layers=3,
    num_heads=3,
    head_width=4,
    mlp_width=11,
    activation="gelu_tanh",
    gated=True,
    tie_embeddings=False,
    norm_epsilon=1e-3,
)
SHAPES: dict[str, tuple[Family, T5Config]] = {
    "1.0": (T5, BASE),
    "1.1": (T5, GATED),
    "mt5": (MT5, dataclasses.replace(GATED, num_encoder_layers=2, width=24)),
    "one layer, one head, gelu": (
        T5,
        dataclasses.replace(BASE, num_encoder_layers=1, num_decoder_layers=1, num_heads=1, activation="gelu"),
    ),
    "none": (T5, dataclasses.replace(BASE, head="none", num_encoder_layers=1, gated=True, activation="silu")),
    "mt5, none": (MT5, dataclasses.replace(GATED, head="none")),
    "classes": (T5, dataclasses.replace(BASE, head="sequence_classification", num_labels=3)),
    "mt5, classes": (MT5, dataclasses.replace(GATED, head="sequence_classification", num_labels=1)),
}


def _make_pair(family, config):
    def untied(model):
        """Transformers 5 ties every T5 that it makes; it unties where a file holds two different tables."""
        if config.head == "language_model" and not config.tie_embeddings:
            shape = config.vocab_size, config.width
            kernel = np.random.default_rng(0).normal(scale=0.2, size=shape).astype(np.float32)
            model.lm_head.weight = torch.nn.Parameter(torch.tensor(kernel))

    return parity.make_pair(family, config, change=untied, eos_token_id=END)


def _batch(config, length, target_length):
    if config.head == "sequence_classification":
        return encoder_decoders.rows(config, length, length, end=END)
    return encoder_decoders.rows(config, length, target_length)


@pytest.fixture(params=few(SHAPES, "1.1", "one layer, one head, gelu", "mt5, none", "classes"), scope="module")
def pair(request):
    return _make_pair(*SHAPES[request.param])


def test_scores_are_transformers(pair):
    encoder_decoders.assert_scores(pair, _batch(pair.config, 23, 19))


@pytest.mark.parametrize("name", few(["1.0", "mt5"], "1.0"))
def test_gradients_are_transformers(name):
    pair = _make_pair(*SHAPES[name])
    encoder_decoders.assert_gradients(pair, encoder_decoders.rows(pair.config, 13, 9))


def test_there_and_back_is_exact(pair):
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    batch = _batch(pair.config, 9, 7)
    parity.assert_reloads(pair, tmp_path / "out", lambda model: encoder_decoders.their_scores(model, batch))


def test_the_first_files_are_read():
    """They hold the table of words under four names, and a bias that nothing reads."""
    tensors = parity.in_memory(_make_pair(*SHAPES["1.0"]).theirs)
    assert {"shared.weight", "encoder.embed_tokens.weight", "lm_head.weight"} < tensors.keys()
    unused = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": np.zeros((8, 5), np.float32)}
    T5.from_hf({**tensors, **unused}, BASE)
    with pytest.raises(UserError, match=r"'lm_head\.weight' differs from 'shared\.weight'"):
        T5.from_hf({**tensors, "lm_head.weight": tensors["shared.weight"] + 1}, BASE)
    tied = {name: array for name, array in tensors.items() if name != "lm_head.weight"}
    params = T5.from_hf(tied, dataclasses.replace(BASE, tie_embeddings=False))  # tied by Transformers, but not scaled
    np.testing.assert_array_equal(params["head"]["kernel"], params["backbone"]["token_embedding"]["embedding"])


SMALL = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 512,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_heads": 8,
    "num_layers": 6,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "task_specific_params": {},
    "vocab_size": 32128,
}
"""t5-small's config.json."""

FLAN = {**SMALL, "feed_forward_proj": "gated-gelu", "num_decoder_layers": 8, "tie_word_embeddings": False}
"""flan-t5-small's, in what is not t5-small's; and so with Transformers 5's spelling of the same."""
FLAN_5 = {
    **FLAN,
    "tie_word_embeddings": True,
    "scale_decoder_outputs": False,
    "dense_act_fn": "gelu_new",
    "is_gated_act": True,
}


def test_published_configs_are_read():
    assert T5.read_config(SMALL, "language_model") == T5Config()
    flan = T5Config(num_decoder_layers=8, activation="gelu_tanh", gated=True, tie_embeddings=False)
    assert T5.read_config(FLAN, "language_model") == flan
    assert T5.read_config(FLAN_5, "language_model") == flan
    # google/mt5-small says nothing of its feed-forward layers in some versions, and falsely that the head is tied.
    mt5 = {name: value for name, value in FLAN.items() if name not in ("feed_forward_proj", "tie_word_embeddings")}
    assert MT5.read_config({**mt5, "model_type": "mt5"}, "language_model") == flan


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"feed_forward_proj": "wide-relu"}, "feed_forward_proj = 'wide-relu' is not supported"),
        ({"feed_forward_proj": "mish"}, "dense_act_fn = 'mish' is not supported"),
        ({"is_gated_act": False}, "is_gated_act = False is not what feed_forward_proj = 'gated-gelu' means"),
        ({"scale_decoder_outputs": True}, "scale_decoder_outputs = True without tied embeddings is not supported"),
        ({"rope_theta": 1e4}, "unknown fields, which may change the model: rope_theta"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(changed, message):
    with pytest.raises(UserError, match=message):
        T5.read_config(FLAN | changed, "language_model")


def test_what_a_model_type_cannot_say_is_not_exported():
    assert T5.fits(BASE)
    assert MT5.fits(GATED)
    assert not MT5.fits(BASE)
    assert not T5.fits(dataclasses.replace(BASE, gated=True, activation="gelu"))
