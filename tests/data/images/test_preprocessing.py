"""Preprocessing against Hugging Face's PIL image processors, on real photographs."""

import numpy as np
import pytest
import transformers
from PIL import Image

from transformer.data.images.preprocessing import RESAMPLES, Preprocessing

PIL = {"backend": "pil"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module", params=["china.jpg", "flower.jpg", "tall"])
def photograph(request):
    from sklearn.datasets import load_sample_image

    if request.param != "tall":
        return Image.fromarray(load_sample_image(request.param))
    return Image.fromarray(load_sample_image("china.jpg")).rotate(90, expand=True).resize((75, 333))


def theirs(cls, photograph, **settings):
    """Returns (uint8 [H, W, C], float32 [H, W, C]) of a Hugging Face processor."""
    processor = getattr(transformers, f"{cls}Pil", None) or getattr(transformers, cls)
    whole = processor(**settings)
    plain = processor(**settings | {"do_rescale": False, "do_normalize": False})
    arrays = [each(photograph, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0) for each in (plain, whole)]
    return arrays[0], arrays[1]


def assert_same(preprocessing, photograph, want):
    pixels, numbers = want
    np.testing.assert_array_equal(preprocessing.cut(photograph), pixels)
    np.testing.assert_allclose(preprocessing(photograph), numbers, rtol=0, atol=2e-6)


@pytest.mark.parametrize("resample", RESAMPLES)
def test_squashing_is_vits(photograph, resample):
    settings = {"size": {"height": 224, "width": 224}, "resample": RESAMPLES[resample]}
    want = theirs("ViTImageProcessor", photograph, **settings)
    assert_same(Preprocessing(224, resize="squash", resample=resample), photograph, want)


def test_cutting_the_middle_is_clips(photograph):
    want = theirs("CLIPImageProcessor", photograph)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    assert_same(Preprocessing(224, mean=mean, std=std), photograph, want)


def test_a_longer_edge_is_dinov2s(photograph):
    settings = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}
    want = theirs("BitImageProcessor", photograph, **settings, image_mean=MEAN, image_std=STD)
    assert_same(Preprocessing(224, edge=256, mean=MEAN, std=STD), photograph, want)


def test_siglips(photograph):
    want = theirs("SiglipImageProcessor", photograph, size={"height": 96, "width": 96})
    assert_same(Preprocessing(96, resize="squash"), photograph, want)


@pytest.mark.parametrize(("edge", "crop"), [(200, 224), (75, 224), (99, 100)])
def test_an_edge_below_the_cut_is_padded_as_theirs(edge, crop, photograph):
    settings = {"size": {"shortest_edge": edge}, "crop_size": {"height": crop, "width": crop}}
    want = theirs("BitImageProcessor", photograph, **settings, image_mean=MEAN, image_std=STD)
    assert_same(Preprocessing(crop, edge=edge, mean=MEAN, std=STD), photograph, want)
