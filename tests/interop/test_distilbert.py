"""DistilBERT against Transformers' on random weights, in odd shapes under every head, and there and back."""

import dataclasses

import pytest

from transformer.errors import UserError
from transformer.interop import families
from transformer.interop.distilbert import DISTILBERT
from transformer.models.distilbert import DistilBertConfig

from . import encoders
from .encoders import (  # noqa: F401 - held for the pairs below
    test_scores_are_transformers,
    test_there_and_back_is_exact,
    test_transformers_loads_what_is_written,
)

DEEP = DistilBertConfig(vocab_size=61, context_length=19, width=30, num_layers=3, num_heads=5, mlp_width=44)
NARROW = DistilBertConfig(
    vocab_size=33, context_length=40, width=14, num_layers=1, num_heads=7, mlp_width=9, tie_embeddings=False
)
ONE_HEAD = DistilBertConfig(
    vocab_size=101, context_length=15, width=17, num_layers=2, num_heads=1, mlp_width=23, activation="relu",
    dropout=0.0, attention_dropout=0.2, answer_dropout=0.3, classifier_dropout=0.4,
)  # fmt: skip
CASES = {
    "masked_lm": DEEP,
    "masked_lm, untied": NARROW,
    "masked_lm, relu": ONE_HEAD,
    "sequence_classification": ONE_HEAD,
    "token_classification": NARROW,
    "question_answering": ONE_HEAD,
    "multiple_choice": DEEP,
    "none": NARROW,
}


pair = encoders.pairs(
    DISTILBERT, CASES, "masked_lm, untied", "sequence_classification", "question_answering", "multiple_choice"
)


def test_gradients_of_pretraining_are_transformers():
    encoders.assert_pretraining_gradients(encoders.make_pair(DISTILBERT, DEEP, "masked_lm"))


def test_the_published_config_file_is_read():
    config = {
        "activation": "gelu", "architectures": ["DistilBertForMaskedLM"], "attention_dropout": 0.1, "dim": 768,
        "dropout": 0.1, "hidden_dim": 3072, "initializer_range": 0.02, "max_position_embeddings": 512,
        "model_type": "distilbert", "n_heads": 12, "n_layers": 6, "pad_token_id": 0, "qa_dropout": 0.1,
        "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False, "tie_weights_": True,
        "transformers_version": "4.10.0.dev0", "vocab_size": 30522,
    }  # fmt: skip
    assert DISTILBERT.read_config(config, "masked_lm") == DistilBertConfig()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("activation", "mish", "activation = 'mish' is not supported"),
        ("layer_norm_eps", 1e-5, "unknown fields, which may change the model: layer_norm_eps"),
        ("type_vocab_size", 2, "unknown fields, which may change the model: type_vocab_size"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(field, value, message):
    with pytest.raises(UserError, match=message):
        DISTILBERT.read_config(DISTILBERT.write_config(DistilBertConfig()) | {field: value}, "masked_lm")


def test_an_epsilon_that_transformers_does_not_have_is_not_exported():
    with pytest.raises(UserError, match="Transformers has no model of this distilbert architecture"):
        families.of_architecture(dataclasses.replace(DEEP, norm_epsilon=1e-5))
