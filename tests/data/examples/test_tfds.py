"""Examples of TFDS: classes by their names, splits as they are, and a test split whose labels are secret left out."""

import pytest
import tensorflow_datasets as tfds

from transformer.data.examples.config import ExamplesConfig
from transformer.data.examples.texts import TextsReading
from transformer.data.kinds import open_dataset
from transformer.errors import UserError
from transformer.tokenizers.raw_bytes import ByteTokenizer


class Opinions(tfds.core.GeneratorBasedBuilder):
    """Pairs of sentences, like GLUE's."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {name: tfds.features.Text() for name in ("sentence1", "sentence2")}
        features["label"] = tfds.features.ClassLabel(names=["not_equivalent", "equivalent"])
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(12),
            "validation": self._generate_examples(4),
            "test": self._generate_examples(3, secret=True),
        }

    def _generate_examples(self, count, *, secret=False):
        for number in range(count):
            label = -1 if secret else number % 2
            yield number, {"sentence1": f"first {count} {number}", "sentence2": "second", "label": label}


@pytest.fixture(autouse=True)
def _prepared(tmp_path, monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    Opinions(data_dir=str(tmp_path / "tfds"), file_format="array_record").download_and_prepare()


def opened(tmp_path, *, whole=False, **fields):
    config = ExamplesConfig(tfds="opinions", cache_dir=str(tmp_path), **{"text_field": "sentence1", **fields})
    return open_dataset(config, TextsReading(48), vocab_size=400, tokenizer=ByteTokenizer(), whole=whole)


def test_classes_have_their_names_and_splits_are_taken(tmp_path):
    found = opened(tmp_path, pair_field="sentence2")
    assert (found.labels, found.counts) == (("equivalent", "not_equivalent"), (6, 6))
    assert (len(found.train[0]), len(found.validation)) == (12, 4)
    assert found.validation[0]["token_types"].sum() > 0


def test_a_test_split_without_labels_is_not_evaluated_on(tmp_path):
    assert len(opened(tmp_path, whole=True).validation) == 4


def test_a_field_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="tfds:opinions train, example 0: no 'text'; it has: label, sent"):
        opened(tmp_path, text_field="text")
