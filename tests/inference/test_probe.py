"""Linear probes: what is read of an encoder, few images a class, and the accuracy of what can be told."""

import dataclasses

import numpy as np
import pytest

from tests.tiny_models import TINY, random_params
from transformer.errors import UserError
from transformer.inference import probe
from transformer.layers.execution import Execution

VIT = dataclasses.replace(TINY["vit"], class_token=True, registers=0)
PIXELS = np.random.default_rng(0).normal(size=(5, *VIT.input_size)).astype(np.float32)


@pytest.mark.parametrize("pooling", ["class_token", "mean", "attention"])
def test_features_are_what_the_classifier_reads(pooling):
    config = dataclasses.replace(VIT, pooling=pooling)
    model, params = config.build(Execution()), random_params(config)
    found = probe.features(config, model, params, PIXELS)
    if pooling == "attention":  # has weights of its own, which a pretrained encoder may lack
        config, params = dataclasses.replace(config, pooling="mean"), {**params}
        params.pop("pooler")
        model = config.build(Execution())
    logits = model.apply({"params": params}, PIXELS).logits
    head = params["head"]["out"]
    np.testing.assert_allclose(found @ head["kernel"] + head["bias"], logits, atol=1e-5)


def test_a_masked_autoencoder_is_read_as_its_encoder():
    hidden = {"decoder_width": 8, "decoder_layers": 1, "decoder_heads": 2, "kept_patches": 3}
    config = dataclasses.replace(VIT, pooling="mean", head="masked_pixels", **hidden)
    found = probe.features(config, config.build(Execution()), random_params(config), PIXELS)
    assert found.shape == (5, config.width)
    assert not np.allclose(found[0], found[1])


def test_few_of_each_class():
    labels = np.repeat(np.arange(3, dtype=np.int32), (2, 7, 9))
    whole = probe.Sample(np.arange(18, dtype=np.float32).reshape(18, 1, 1, 1), labels)
    some = whole.few(4)
    assert np.bincount(some.labels).tolist() == [2, 4, 4]
    np.testing.assert_array_equal(labels[some.images.ravel().astype(int)], some.labels)
    np.testing.assert_array_equal(some.images, whole.few(4).images)
    assert not np.array_equal(some.images, whole.few(4, seed=1).images)


def test_accuracy_is_of_rows_that_were_not_learnt():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    told = np.eye(3)[labels] + 0.1 * rng.normal(size=(300, 3))
    assert probe.accuracy(told[:200], labels[:200], told[200:], labels[200:]) == 1
    noise = rng.normal(size=(300, 3))
    assert 0.15 < probe.accuracy(noise[:200], labels[:200], noise[200:], labels[200:]) < 0.55


def test_what_cannot_be_read_is_left_out():
    image = np.zeros((2, 2, 1), np.float32)
    records = [{"image": image, "label": np.int32(k), "there": np.float32(k != 1)} for k in range(3)]
    assert probe.Sample.of([records]).labels.tolist() == [0, 2]
    with pytest.raises(UserError, match="a probe needs images, and there are none"):
        probe.Sample.of([records[1:2]])
