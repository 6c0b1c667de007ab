"""ViT against Transformers': outputs, gradients, weights and configs there and back, images of another size."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.inference.image_classifier import attention_of
from transformer.interop import families
from transformer.interop.vit import VIT
from transformer.layers.execution import Execution
from transformer.layers.patches import patches_of
from transformer.models.vit import ViTConfig

from . import images, parity

PLAIN = ViTConfig(image_size=12, patch_size=4, width=24, num_layers=3, num_heads=3, mlp_width=40)
ODD = dataclasses.replace(
    PLAIN, image_size=15, patch_size=3, channels=1, width=20, num_heads=5, mlp_width=18, norm_epsilon=1e-5
)
BARE = dataclasses.replace(PLAIN, attention_bias=False, activation="gelu_tanh", num_layers=1, patch_size=6)
CASES = {
    f"{head}{name}": shape
    for head in ("image_classification", "none")
    for name, shape in (("", PLAIN), (", odd", ODD), (", without biases", BARE))
}


@pytest.fixture(params=few(CASES, "image_classification, odd", "none, without biases"), scope="module")
def pair(request):
    return images.make_pair(VIT, CASES[request.param], request.param.split(",")[0])


def test_outputs_are_transformers(pair):
    images.assert_outputs(pair, images.images(pair.config))


def test_images_of_another_size_have_resized_positions(pair):
    size = pair.config.patch_size * 7
    batch = images.images(pair.config, size=size)
    have = images.our_outputs(pair.apply({"images": batch}))
    want = images.their_outputs(pair, batch, interpolate_pos_encoding=True)
    parity.assert_near(have[0], want[0])


def test_attention_is_transformers(pair):
    batch = images.images(pair.config)
    have = attention_of(pair.config.build(Execution()), pair.params, batch)
    want = images.attentions(pair, batch)
    assert len(have) == len(want) == pair.config.num_layers
    for ours, theirs in zip(have, want, strict=True):
        parity.assert_near(ours, theirs)


def test_gradients_are_transformers(pair):
    images.assert_gradients(pair)


def test_there_and_back_is_exact():
    for head in ("image_classification", "none"):
        parity.assert_there_and_back(images.make_pair(VIT, ODD, head))


def test_transformers_loads_what_is_written(tmp_path):
    for head in ("image_classification", "none"):
        pair = images.make_pair(VIT, PLAIN, head)
        batch = images.images(pair.config)
        parity.assert_reloads(pair, tmp_path / head, lambda model: images.their_outputs(pair, batch, model)[-1])  # noqa: B023


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("pooler_act", "relu", "pooler_act"),
        ("pooler_output_size", 7, "pooler_output_size"),
        ("hidden_act", "mish", "hidden_act"),
        ("image_size", 13, "image_size"),
        ("window_size", 3, "window_size"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(field, value, words):
    config = VIT.write_config(dataclasses.replace(PLAIN, head="none")) | {field: value}
    with pytest.raises(UserError, match=words):
        VIT.read_config(config, "none")


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "mean"},
        {"registers": 2},
        {"distillation_token": True},
        {"layer_scale": 0.1},
        {"head": "masked_pixels", "kept_patches": 2, "decoder_width": 16, "decoder_heads": 2},
    ],
)
def test_what_transformers_does_not_compute_is_not_exported(change):
    assert not VIT.fits(dataclasses.replace(PLAIN, **change))


def test_a_file_without_a_pooler_is_told_by_its_weights():
    pair = images.make_pair(VIT, PLAIN, "none")
    bare = {name: tensor for name, tensor in pair.tensors.items() if not name.startswith("pooler.")}
    config = VIT.write_config(pair.config)
    assert families.choose_head(VIT, config, bare) == ("unpooled", [])
    assert families.choose_head(VIT, config, pair.tensors) == ("none", [])
    unpooled = dataclasses.replace(PLAIN, head="unpooled")
    params = VIT.from_hf(bare, unpooled)
    hidden = unpooled.build(Execution()).apply({"params": params}, images=images.images(PLAIN)).hidden_BTD
    parity.assert_near(hidden, images.their_outputs(pair, images.images(PLAIN))[0])


def test_a_kernel_of_patches_is_a_convolution():
    pair = images.make_pair(VIT, ODD, "none")
    batch = images.images(ODD)
    with torch.no_grad():
        want = pair.theirs.embeddings.patch_embeddings(images.pixels(batch))
    projection = pair.params["backbone"]["patch_embedding"]["projection"]
    have = np.asarray(patches_of(batch, ODD.patch_size)) @ projection["kernel"] + projection["bias"]
    parity.assert_near(have, want)
