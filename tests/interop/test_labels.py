"""Names of classes travel with the architecture: from a Hugging Face folder and back."""

import dataclasses
import json

import pytest
import transformers

from transformer import checkpoint
from transformer.checks import FieldError
from transformer.errors import UserError
from transformer.interop import convert
from transformer.interop.bert import BERT
from transformer.interop.family import labels_of
from transformer.models import architecture_from_dict, architecture_to_dict
from transformer.models.bert import BertConfig

TINY = BertConfig(
    vocab_size=30, context_length=16, width=8, num_layers=1, num_heads=2, mlp_width=16, head="sequence_classification"
)


def test_labels_come_from_the_folder_and_go_back_into_it(tmp_path):
    names = {0: "negative", 1: "neutral", 2: "positive"}
    config = their_config(id2label=names, label2id={name: i for i, name in names.items()})
    config.problem_type = "multi_label_classification"
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    imported = convert.import_folder(tmp_path / "theirs")
    assert imported.architecture.labels == ("negative", "neutral", "positive")
    assert imported.architecture.problem == "multi_label_classification"
    written = BERT.write_config(imported.architecture)
    again = transformers.BertConfig.from_dict(written)
    assert (again.id2label, again.problem_type) == (names, "multi_label_classification")
    other_head = convert.import_folder(tmp_path / "theirs", num_labels=2).architecture
    assert (other_head.labels, other_head.class_names) == ((), ("LABEL_0", "LABEL_1"))


def test_labels_of_another_training_replace_those_of_the_folder():
    before = BERT.write_config(dataclasses.replace(TINY, labels=("a", "b")))
    assert BERT.rewrite_config(dataclasses.replace(TINY, labels=("c", "d")), before)["label2id"] == {"c": 0, "d": 1}
    assert BERT.rewrite_config(TINY, before)["label2id"] == {"a": 0, "b": 1}


@pytest.mark.parametrize(
    ("id2label", "labels"),
    [
        (None, ()),
        ({"0": "LABEL_0", "1": "LABEL_1"}, ()),
        ({"1": "b", "0": "a"}, ("a", "b")),
        ({"1": "b", "2": "c"}, ()),
        ({0: 7}, ("7",)),
    ],
)
def test_labels_are_read_in_the_order_of_their_numbers(id2label, labels):
    assert labels_of({"id2label": id2label}) == labels


def test_what_does_not_fit_is_refused():
    with pytest.raises(FieldError, match="`labels` names 3 classes|labels names 3 classes"):
        dataclasses.replace(TINY, labels=("a", "b", "c"))
    written = BERT.write_config(TINY) | {"problem_type": "ranking"}
    with pytest.raises(UserError, match="problem_type = 'ranking'; known: single_label"):
        BERT.read_config(written, "sequence_classification")


def test_an_older_record_has_no_labels():
    record = json.loads(checkpoint.to_json({"family": "bert", **dataclasses.asdict(TINY)}))
    del record["labels"], record["problem_type"]
    assert architecture_from_dict(record) == TINY


def their_config(**fields):
    return transformers.BertConfig(**{**BERT.write_config(TINY), **fields})


def test_a_record_is_what_is_read_of_it():
    """Local checkpoints are told by it from those of another model."""
    record = architecture_to_dict(dataclasses.replace(TINY, labels=("a", "b")))
    assert json.loads(json.dumps(record)) == record
    assert architecture_from_dict(record).labels == ("a", "b")
