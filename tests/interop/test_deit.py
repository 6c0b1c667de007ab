"""Distilled DeiT against Transformers': outputs of both heads, gradients, weights and configs there and back."""

import dataclasses

import pytest

from tests.exhaustive import few
from transformer.inference.image_classifier import attention_of
from transformer.interop import families
from transformer.interop.vit import DEIT, VIT
from transformer.layers.execution import Execution

from . import images, parity
from .test_vit import BARE, ODD, PLAIN

SHAPES = {"": PLAIN, ", odd": ODD, ", without biases": BARE}
CASES = {
    f"{head}{name}": dataclasses.replace(shape, distillation_token=True)
    for head in ("image_classification", "none")
    for name, shape in SHAPES.items()
}


@pytest.fixture(params=few(CASES, "image_classification, odd"), scope="module")
def pair(request):
    return images.make_pair(DEIT, CASES[request.param], request.param.split(",")[0])


def test_outputs_are_transformers(pair):
    images.assert_outputs(pair, images.images(pair.config))


def test_attention_is_transformers(pair):
    batch = images.images(pair.config)
    have = attention_of(pair.config.build(Execution()), pair.params, batch)
    for ours, theirs in zip(have, images.attentions(pair, batch), strict=True):
        parity.assert_near(ours, theirs)


def test_gradients_are_transformers(pair):
    images.assert_gradients(pair)


def test_there_and_back_is_exact(pair):
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    batch = images.images(pair.config)
    parity.assert_reloads(pair, tmp_path, lambda model: images.their_outputs(pair, batch, model)[-1])


def test_a_token_decides_the_model_type():
    both = CASES["image_classification"]
    assert families.of_architecture(both) is DEIT
    assert families.of_architecture(PLAIN) is VIT
    config = DEIT.write_config(both)
    assert config["architectures"] == ["DeiTForImageClassificationWithTeacher"]
    assert "distillation_token" not in config  # which is no field of theirs
    assert DEIT.read_config(config, "image_classification", both.num_labels) == both
