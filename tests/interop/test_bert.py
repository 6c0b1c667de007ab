"""BERT against Transformers' on random weights, in odd shapes under every head, and there and back."""

import jax
import numpy as np
import pytest

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop import families
from transformer.interop.bert import BERT
from transformer.interop.convert import import_folder
from transformer.interop.folder import write_folder
from transformer.models.bert import BertConfig

from . import encoders, parity
from .encoders import (  # noqa: F401 - held for the pairs below
    test_scores_are_transformers,
    test_there_and_back_is_exact,
    test_transformers_loads_what_is_written,
)

DEEP = BertConfig(vocab_size=61, context_length=19, width=30, num_layers=3, num_heads=5, mlp_width=44)
NARROW = BertConfig(
    vocab_size=33, context_length=40, width=14, num_layers=1, num_heads=7, mlp_width=9, tie_embeddings=False,
    num_token_types=3, norm_epsilon=1e-5,
)  # fmt: skip
ONE_HEAD = BertConfig(
    vocab_size=101, context_length=15, width=17, num_layers=2, num_heads=1, mlp_width=23, activation="relu"
)
CASES = {
    "pretraining": DEEP,
    "pretraining, untied": NARROW,
    "masked_lm": ONE_HEAD,
    "masked_lm, untied": NARROW,
    "next_sentence": DEEP,
    "sequence_classification": NARROW,
    "token_classification": ONE_HEAD,
    "question_answering": DEEP,
    "multiple_choice": NARROW,
    "none": ONE_HEAD,
}


pair = encoders.pairs(
    BERT, CASES, "pretraining, untied", "next_sentence", "question_answering", "multiple_choice", "none"
)


@pytest.mark.parametrize("shape", few([DEEP, NARROW], DEEP), ids=["tied", "untied"])
def test_gradients_of_pretraining_are_transformers(shape):
    encoders.assert_pretraining_gradients(encoders.make_pair(BERT, shape, "pretraining"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("position_embedding_type", "relative_key", "position_embedding_type = 'relative_key' is not supported"),
        ("is_decoder", True, "is_decoder = True is not supported"),
        ("add_cross_attention", True, "add_cross_attention = True is not supported"),
        ("classifier_dropout", 0.3, "classifier_dropout = 0.3 is not supported, only hidden_dropout_prob's 0.1"),
        ("hidden_act", "mish", "hidden_act = 'mish' is not supported"),
        ("pruned_heads", {"0": [1]}, "pruned_heads = .* is not supported, only {}"),
        ("embedding_size", 128, "embedding_size = 128 is not supported, only hidden_size's 768"),
        ("num_attention_heads", 7, "num_heads 7 does not divide width 768"),
    ],
)
def test_unsupported_config_fields_are_refused_by_name(field, value, message):
    with pytest.raises(UserError, match=message):
        BERT.read_config(BERT.write_config(BertConfig()) | {field: value}, "masked_lm")


def test_published_config_files_are_read():
    """config.json files as they were written over the years."""
    sizes = {
        "hidden_size": 768, "intermediate_size": 3072, "max_position_embeddings": 512, "num_attention_heads": 12,
        "num_hidden_layers": 12, "vocab_size": 30522, "type_vocab_size": 2, "model_type": "bert",
        "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02,
    }  # fmt: skip
    uncased = {
        **sizes, "architectures": ["BertForMaskedLM"], "gradient_checkpointing": False, "layer_norm_eps": 1e-12,
        "pad_token_id": 0, "position_embedding_type": "absolute", "transformers_version": "4.6.0.dev0",
        "use_cache": True,
    }  # fmt: skip
    chinese = {
        **sizes, "directionality": "bidi", "pooler_fc_size": 768, "pooler_num_attention_heads": 12,
        "pooler_num_fc_layers": 3, "pooler_size_per_head": 128, "pooler_type": "first_token_transform",
        "classifier_dropout": 0.1, "pruned_heads": {},
    }  # fmt: skip
    for config in (uncased, chinese):
        assert BERT.read_config(config, "masked_lm") == BertConfig()


@pytest.fixture(scope="module")
def published():
    """A pretraining model's tensors as bert-base-uncased has them: old names of norms, buffers, aliases."""
    pair = encoders.make_pair(BERT, DEEP, "pretraining")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = {}
    for name, array in parity.in_memory(pair.theirs).items():
        for new, before in old.items():
            name = name.replace(new, before)
        tensors[name] = array
    tensors["bert.embeddings.position_ids"] = np.arange(19)[None]
    return pair, tensors


def test_old_names_buffers_and_aliases_are_read(published):
    pair, tensors = published
    assert any(name.endswith("gamma") for name in tensors)
    jax.tree.map(np.testing.assert_array_equal, pair.family.from_hf(tensors, pair.config), pair.params)


def test_the_head_is_told_from_the_names(published, tmp_path):
    """bert-base-uncased calls itself a masked language model and holds the next sentence head too."""
    pair, tensors = published
    config = {**BERT.write_config(pair.config), "architectures": ["BertForMaskedLM"]}
    assert families.choose_head(BERT, config, tensors) == ("pretraining", [])
    write_folder(tmp_path / "hub", config, tensors.items())
    assert import_folder(tmp_path / "hub").architecture == pair.config
    found = import_folder(tmp_path / "hub", head="question_answering")
    assert found.new == ["head/out/bias", "head/out/kernel"]
    kept = import_folder(tmp_path / "hub", head="masked_lm")
    assert not kept.new
    assert all(name.startswith(("pooler", "sentence")) for name in kept.left)


@pytest.mark.parametrize("prefixed", [True, False])
def test_a_backbone_without_pooler_is_read(published, prefixed, tmp_path):
    """A BertModel can be made without a pooler; SpanBERT's folders lack it, too, have the prefix, and name no class."""
    pair, tensors = published
    kept = {name: array for name, array in tensors.items() if name.startswith(("bert.emb", "bert.enc"))}
    config = BERT.write_config(pair.config)
    if prefixed:
        del config["architectures"]
    else:
        kept = {name.removeprefix("bert."): array for name, array in kept.items()}
        config["architectures"] = ["BertModel"]
    write_folder(tmp_path / "hub", config, kept.items())
    found = import_folder(tmp_path / "hub")
    assert found.architecture.head == "unpooled"
    jax.tree.map(np.testing.assert_array_equal, found.params, {"backbone": pair.params["backbone"]})
    assert all(not name.startswith("bert.") for name in dict(BERT.stream(found.params, found.architecture)))


def test_a_decoder_bias_that_differs_is_refused(published):
    pair, tensors = published
    name = "cls.predictions.decoder.bias"
    with pytest.raises(UserError, match=f"'{name}' differs from 'cls.predictions.bias'"):
        BERT.from_hf({**tensors, name: tensors[name] + 1}, pair.config)


def test_what_is_of_no_head_is_refused(published):
    pair, tensors = published
    config = BERT.write_config(pair.config)
    for name in ("bert.junk", "cls.junk"):
        with pytest.raises(UserError, match=f"unexpected '{name}'"):
            families.choose_head(BERT, config, [*tensors, name])
