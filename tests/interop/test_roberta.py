"""RoBERTa against Transformers' on random weights, in odd shapes under every head, and there and back."""

import numpy as np
import pytest
import torch

from transformer.errors import UserError
from transformer.interop.roberta import ROBERTA
from transformer.models.roberta import RobertaConfig

from . import encoders, parity
from .encoders import (  # noqa: F401 - held for the pairs below
    test_scores_are_transformers,
    test_there_and_back_is_exact,
    test_transformers_loads_what_is_written,
)

DEEP = RobertaConfig(vocab_size=61, context_length=19, width=30, num_layers=3, num_heads=5, mlp_width=44)
NARROW = RobertaConfig(
    vocab_size=33, context_length=13, width=14, num_layers=1, num_heads=7, mlp_width=9, tie_embeddings=False
)
ONE_HEAD = RobertaConfig(
    vocab_size=101, context_length=15, width=17, num_layers=2, num_heads=1, mlp_width=23, activation="relu",
    num_token_types=2, norm_epsilon=1e-12,
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


pair = encoders.pairs(ROBERTA, CASES, "masked_lm, untied", "sequence_classification", "multiple_choice", "none")


def test_gradients_of_pretraining_are_transformers():
    encoders.assert_pretraining_gradients(encoders.make_pair(ROBERTA, DEEP, "masked_lm"))


def test_positions_that_nobody_gives_are_transformers_too():
    """Theirs count tokens that are no padding, which are here all; ours are indices. Both fill the context."""
    pair = encoders.make_pair(ROBERTA, DEEP, "masked_lm")
    tokens = encoders.rows(DEEP, 19)["tokens"]
    with torch.no_grad():
        want = pair.theirs(parity.tensor(tokens)).logits
    parity.assert_near(pair.apply({"tokens": tokens}).logits, want)


def test_the_published_config_file_is_read():
    config = {
        "architectures": ["RobertaForMaskedLM"], "attention_probs_dropout_prob": 0.1, "bos_token_id": 0,
        "eos_token_id": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
        "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 514, "model_type": "roberta", "num_attention_heads": 12, "num_hidden_layers": 12,
        "pad_token_id": 1, "type_vocab_size": 1, "vocab_size": 50265,
    }  # fmt: skip
    assert ROBERTA.read_config(config, "masked_lm") == RobertaConfig()
    assert ROBERTA.write_config(RobertaConfig())["max_position_embeddings"] == 514


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("position_embedding_type", "relative_key", "position_embedding_type = 'relative_key' is not supported"),
        ("is_decoder", True, "is_decoder = True is not supported"),
        ("pad_token_id", 0, "pad_token_id = 0 is not supported, only 1"),
        ("classifier_dropout", 0.3, "classifier_dropout = 0.3 is not supported"),
        ("max_position_embeddings", 2, "context_length is 0"),
        ("adapter_layers", 1, "unknown fields, which may change the model: adapter_layers"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(field, value, message):
    with pytest.raises(UserError, match=message):
        ROBERTA.read_config(ROBERTA.write_config(RobertaConfig()) | {field: value}, "masked_lm")


def test_a_published_masked_lm_with_a_pooler_is_read():
    """roberta-base holds a pooler that its class does not have, and positions as a buffer."""
    from transformer.interop import families

    pair = encoders.make_pair(ROBERTA, NARROW, "masked_lm")
    more = {
        "roberta.embeddings.position_ids": np.arange(15)[None],
        "roberta.pooler.dense.weight": np.zeros((14, 14), np.float32),
        "roberta.pooler.dense.bias": np.zeros(14, np.float32),
    }
    names = [*pair.tensors, *more]
    head, left = families.choose_head(ROBERTA, ROBERTA.write_config(pair.config), names)
    assert (head, left) == ("masked_lm", ["roberta.pooler.dense.bias", "roberta.pooler.dense.weight"])
    ROBERTA.from_hf({**pair.tensors, **more}, pair.config, leave=left)
