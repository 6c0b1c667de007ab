"""DINOv2 against Transformers', with and without registers; and the published ViT-S/14's features."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.interop.dinov2 import FAMILIES
from transformer.models.dinov2 import Dinov2Config

from . import images, parity

DINOV2, WITH_REGISTERS = FAMILIES
PLAIN = Dinov2Config(image_size=12, patch_size=4, width=24, num_layers=3, num_heads=3, mlp_width=48)
ODD = dataclasses.replace(PLAIN, image_size=15, patch_size=3, channels=1, width=20, num_heads=5, mlp_width=60)
SHALLOW = dataclasses.replace(PLAIN, num_layers=1, layer_scale=0.1, mask_token=False, activation="gelu_tanh")
CASES = {
    f"{head}{name}": (family, dataclasses.replace(shape, registers=registers))
    for head in ("image_classification", "none")
    for name, family, shape, registers in (
        ("", DINOV2, PLAIN, 0),
        (", odd", DINOV2, ODD, 0),
        (", shallow", DINOV2, SHALLOW, 0),
        (", registers", WITH_REGISTERS, ODD, 3),
    )
}


@pytest.fixture(params=few(CASES, "image_classification, odd", "none, registers", "none, shallow"), scope="module")
def pair(request):
    family, shape = CASES[request.param]
    return images.make_pair(family, shape, request.param.split(",")[0])


def test_outputs_are_transformers(pair):
    images.assert_outputs(pair, images.images(pair.config))


@pytest.mark.parametrize("patches", [7, 2])
def test_images_of_another_size_have_resized_positions(pair, patches):
    images.assert_outputs(pair, images.images(pair.config, size=patches * pair.config.patch_size))


def test_gradients_are_transformers(pair):
    images.assert_gradients(pair)


def test_there_and_back_is_exact(pair):
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    batch = images.images(pair.config)
    parity.assert_reloads(pair, tmp_path / "out", lambda model: images.their_outputs(pair, batch, model)[-1])


@pytest.mark.parametrize(
    ("field", "value"), [("use_swiglu_ffn", True), ("mlp_ratio", 4.02), ("drop_path_rate", 0.3), ("hidden_act", "mish")]
)
def test_what_is_not_supported_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        DINOV2.read_config(DINOV2.write_config(PLAIN) | {field: value}, "none")


PUBLISHED = Path("~/.cache/real-weights/dinov2-small").expanduser()


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published weights are not on this machine")
def test_the_published_model_has_transformers_features():
    import transformers

    from transformer.interop.convert import import_folder
    from transformer.layers.execution import Execution

    imported = import_folder(PUBLISHED)
    assert imported.architecture.num_params() == 22_056_576
    batch = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    ours = imported.architecture.build(Execution()).apply({"params": imported.params}, images=batch)
    theirs = transformers.AutoModel.from_pretrained(PUBLISHED, attn_implementation="eager").eval()
    with torch.no_grad():
        want = theirs(pixel_values=images.pixels(batch))
    for have, output in ((ours.hidden_BTD, want.last_hidden_state), (ours.pooled_BD, want.pooler_output)):
        size = float(output.abs().max())
        parity.assert_near(np.asarray(have) / size, output / size, tolerance=1e-4)
