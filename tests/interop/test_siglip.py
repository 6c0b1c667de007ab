"""SigLIP against Transformers': both towers' vectors, scores, gradients, weights and configs there and back."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop import families
from transformer.interop.siglip import FAMILIES
from transformer.models.siglip import SiglipConfig

from . import parity, towers

[SIGLIP] = FAMILIES
PLAIN = SiglipConfig(
    image_size=12, patch_size=4, width=24, num_layers=3, num_heads=3, mlp_width=40, vocab_size=37, context_length=11,
    text_width=16, text_layers=2, text_heads=2, text_mlp_width=28,
)  # fmt: skip
ODD = dataclasses.replace(
    PLAIN, image_size=15, patch_size=3, channels=1, width=20, num_heads=5, text_layers=4, text_width=21, text_heads=3,
    activation="gelu", text_activation="relu", norm_epsilon=1e-4,
)  # fmt: skip
WIDE_TEXT = dataclasses.replace(PLAIN, num_layers=1, patch_size=6, text_width=30, text_heads=5, text_layers=1)
CASES = {"plain": PLAIN, "odd": ODD, "wide text": WIDE_TEXT}


def unmasked(batch):
    """The inputs without `segment_ids`: what Transformers computes without a mask."""
    return {name: array for name, array in batch.items() if name != "segment_ids"}


@pytest.fixture(params=few(CASES, "odd", "wide text"), scope="module")
def pair(request):
    return parity.make_pair(SIGLIP, CASES[request.param])


def test_outputs_are_transformers(pair):
    towers.assert_outputs(pair, unmasked(towers.batch_of(pair.config)), masked=False)


def test_padding_is_read_like_any_token(pair):
    """Which places a batch says are padding changes nothing, as in a `SiglipModel` that is given no mask."""
    batch = towers.batch_of(pair.config)
    towers.assert_outputs(pair, batch, masked=False)
    have, want = pair.apply(batch).texts_NP, pair.apply(unmasked(batch)).texts_NP
    np.testing.assert_array_equal(have, want)


def test_images_of_another_size_have_resized_positions(pair):
    batch = towers.batch_of(dataclasses.replace(pair.config, image_size=7 * pair.config.patch_size))
    towers.assert_outputs(pair, batch, masked=False, interpolate_pos_encoding=True)


def test_gradients_are_transformers(pair):
    towers.assert_gradients(pair, towers.batch_of(pair.config), masked=False)


def test_there_and_back_is_exact(pair):
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    batch = towers.batch_of(pair.config)
    parity.assert_reloads(
        pair, tmp_path / "out", lambda model: towers.their_outputs(pair, batch, model, masked=False)[-1]
    )


def test_defaults_are_transformers():
    """Those of google/siglip-base-patch16-224, of which config.json says little else."""
    config = transformers.SiglipConfig(text_config={}, vision_config={})
    assert SIGLIP.read_config(config.to_dict(), "contrastive") == SiglipConfig()
    assert SIGLIP.read_config({"model_type": "siglip"}, "contrastive") == SiglipConfig()
    with torch.device("meta"):
        theirs = transformers.SiglipModel(config)
    assert SiglipConfig().num_params() == sum(parameter.numel() for parameter in theirs.parameters()) == 203_155_970


def test_a_classifier_without_text_is_refused():
    """`SiglipForImageClassification`, which is no model of images and texts."""
    pair = parity.make_pair(SIGLIP, PLAIN)
    names = [name for name in pair.tensors if name.startswith("vision_model.")]
    config = SIGLIP.write_config(PLAIN) | {"architectures": ["SiglipForImageClassification"]}
    with pytest.raises(UserError, match=r"the weights do not fit SiglipModel: missing 'logit_bias'"):
        families.choose_head(SIGLIP, config, names)


@pytest.mark.parametrize(
    ("tower", "field", "value", "words"),
    [
        ("text_config", "window", 3, "text_config.window"),
        ("text_config", "projection_size", 16, "projection_size = 16 .*only vision_config.hidden_size's 24"),
        ("text_config", "projection_size", None, "projection_size = 16 .*only vision_config.hidden_size's 24"),
        ("vision_config", "vision_use_head", False, "vision_use_head = False is not supported, only True"),
        ("vision_config", "hidden_act", "mish", "vision_config.hidden_act"),
        ("vision_config", "layer_norm_eps", 1e-3, "layer_norm_eps, .* that differ"),
        ("vision_config", "image_size", [12, 16], "image_size"),
        ("text_config", "model_type", "bert", "text_config: model_type is 'bert'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(tower, field, value, words):
    config = SIGLIP.write_config(PLAIN)
    config[tower] = config[tower] | {field: value}
    with pytest.raises(UserError, match=words):
        SIGLIP.read_config(config, "contrastive")
