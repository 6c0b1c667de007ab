"""ALBERT against Transformers' on random weights, in odd shapes under every head, and there and back."""

import pytest

from transformer.errors import UserError
from transformer.interop.albert import ALBERT
from transformer.models.albert import AlbertConfig

from . import encoders
from .encoders import (  # noqa: F401 - held for the pairs below
    test_scores_are_transformers,
    test_there_and_back_is_exact,
    test_transformers_loads_what_is_written,
)

DEEP = AlbertConfig(
    vocab_size=61, context_length=19, embedding_width=7, width=30, num_layers=4, num_heads=5, mlp_width=44
)
WIDE_EMBEDDING = AlbertConfig(
    vocab_size=33, context_length=40, embedding_width=21, width=14, num_layers=1, num_heads=7, mlp_width=9,
    activation="gelu", num_token_types=3, norm_epsilon=1e-5, tie_embeddings=False,
)  # fmt: skip
ONE_HEAD = AlbertConfig(
    vocab_size=101, context_length=15, embedding_width=17, width=17, num_layers=2, num_heads=1, mlp_width=23,
    activation="relu",
)  # fmt: skip
CASES = {
    "pretraining": DEEP,
    "pretraining, untied": WIDE_EMBEDDING,
    "masked_lm": ONE_HEAD,
    "sequence_classification": WIDE_EMBEDDING,
    "token_classification": ONE_HEAD,
    "question_answering": WIDE_EMBEDDING,
    "multiple_choice": ONE_HEAD,
    "none": DEEP,
}


pair = encoders.pairs(ALBERT, CASES, "pretraining, untied", "sequence_classification", "multiple_choice", "none")


def test_gradients_of_pretraining_are_transformers():
    """A parameter of the one block has the sum over all layers."""
    encoders.assert_pretraining_gradients(encoders.make_pair(ALBERT, DEEP, "pretraining"))


def test_published_config_files_are_read():
    second = {
        "architectures": ["AlbertForMaskedLM"], "attention_probs_dropout_prob": 0, "bos_token_id": 2,
        "classifier_dropout_prob": 0.1, "down_scale_factor": 1, "embedding_size": 128, "eos_token_id": 3,
        "gap_size": 0, "hidden_act": "gelu_new", "hidden_dropout_prob": 0, "hidden_size": 768,
        "initializer_range": 0.02, "inner_group_num": 1, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512, "model_type": "albert", "net_structure_type": 0, "num_attention_heads": 12,
        "num_hidden_groups": 1, "num_hidden_layers": 12, "num_memory_blocks": 0, "pad_token_id": 0,
        "type_vocab_size": 2, "vocab_size": 30000,
    }  # fmt: skip
    assert ALBERT.read_config(second, "masked_lm") == AlbertConfig()
    first = second | {"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1, "hidden_act": "gelu"}
    want = AlbertConfig(activation="gelu", dropout=0.1, attention_dropout=0.1)
    assert ALBERT.read_config(first, "masked_lm") == want


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_hidden_groups", 2, "num_hidden_groups = 2 is not supported, only 1"),
        ("inner_group_num", 2, "inner_group_num = 2 is not supported, only 1"),
        ("position_embedding_type", "relative_key", "position_embedding_type = 'relative_key' is not supported"),
        ("hidden_act", "gelu_10", "hidden_act = 'gelu_10' is not supported"),
        ("is_causal", True, "unknown fields, which may change the model: is_causal"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(field, value, message):
    with pytest.raises(UserError, match=message):
        ALBERT.read_config(ALBERT.write_config(AlbertConfig()) | {field: value}, "masked_lm")
