"""Images of TFDS: a dataset that is defined and prepared here, with no TensorFlow in the process."""

import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data.images.pictures import encoded, picture
from transformer.data.images.config import ImagesConfig
from transformer.data.images.records import ImageReading
from transformer.data.images.sources import open_sources
from transformer.data.kinds import open_dataset
from transformer.errors import UserError


class _Pictures(tfds.core.GeneratorBasedBuilder):
    """Pictures of noise, by turns of each class."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS: dict[str, int]
    LABEL = "label"

    def _info(self):
        features = {"image": tfds.features.Image(shape=(None, None, 3))}
        features[self.LABEL] = tfds.features.ClassLabel(names=["cat", "dog", "fox"])
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(first, count) for split, (first, count) in self.SPLITS.items()}

    def _generate_examples(self, first, count):
        for number in range(first, first + count):
            yield number, {"image": io.BytesIO(encoded(picture(number))), self.LABEL: number % 3}


class SplitPictures(_Pictures):
    SPLITS = {"train": (0, 9), "test": (100, 4)}  # noqa: RUF012 - a builder's


class WholePictures(_Pictures):
    SPLITS = {"train": (0, 12)}  # noqa: RUF012


class TestPictures(_Pictures):
    __test__ = False
    SPLITS = {"test": (0, 3)}  # noqa: RUF012


class NamelessPictures(_Pictures):
    SPLITS = {"train": (0, 3)}  # noqa: RUF012
    LABEL = "kind"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Returns what makes a config of a builder, which is prepared."""
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)

    def of(builder, **fields):
        prepared = builder(data_dir=str(tmp_path / "tfds"), file_format="array_record")
        prepared.download_and_prepare()
        return ImagesConfig(tfds=prepared.name, cache_dir=str(tmp_path), **fields)

    return of


def of_source(source):
    return {(each.content.tobytes(), each.label) for each in (source[index] for index in range(len(source)))}


def drawn(first, count):
    return {(np.asarray(picture(n)).tobytes(), n % 3) for n in range(first, first + count)}


def test_its_splits_are_taken(config):
    train, validation = open_sources(config(SplitPictures))
    assert train is not None
    assert train.labels == validation.labels == ("cat", "dog", "fox")
    assert (of_source(train), of_source(validation)) == (drawn(0, 9), drawn(100, 4))
    assert train[0].name == "tfds:split_pictures train, image 0"
    assert train.fingerprint != validation.fingerprint
    assert "tensorflow" not in sys.modules


def test_one_without_is_split_by_its_numbers(config):
    of = config(WholePictures, validation_fraction=0.3)
    train, validation = open_sources(of)
    assert train is not None
    assert of_source(train) | of_source(validation) == drawn(0, 12)
    assert len(train) + len(validation) == 12
    again = open_sources(of)
    assert of_source(again[1]) == of_source(validation)
    assert again[1].fingerprint == validation.fingerprint


def test_its_records_are_read(config):
    dataset = open_dataset(config(SplitPictures), ImageReading(), vocab_size=None, input_size=(8, 8, 3))
    assert dataset.about.summary == "9 images to train on, 4 to validate of 3 classes"
    assert list(dataset.about.identity["sources"]) == ["tfds:split_pictures"]
    record = dataset.validation[2]
    assert (record["image"].shape, record["there"]) == ((8, 8, 3), 1)


@pytest.mark.parametrize(
    ("builder", "words"),
    [
        (TestPictures, "has no train split; it has: test"),
        (NamelessPictures, "has no feature 'label'; it has: image, kind"),
    ],
)
def test_what_will_not_do_is_refused(builder, words, config):
    with pytest.raises(UserError, match=words):
        open_sources(config(builder))


def test_captions_are_not_there(config):
    reading = ImageReading(captions=True, length=8)
    with pytest.raises(UserError, match="these images have classes and no captions"):
        open_dataset(config(SplitPictures), reading, vocab_size=384, input_size=(8, 8, 3))


@pytest.mark.skipif("tensorflow" in sys.modules, reason="TensorFlow is loaded")
def test_its_sounds_need_tensorflow(monkeypatch):
    """Why AudioConfig has no `tfds`: a feature of sound, which each such builder makes, is TensorFlow's to its type."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ModuleNotFoundError, match="tensorflow"):
        tfds.features.Audio(sample_rate=16_000)
