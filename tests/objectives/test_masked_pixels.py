"""Masked pixels: which patches are read, what is to be told of the others, and the loss against PyTorch's unfold."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from tests.tiny_models import TINY, random_params
from transformer.data.images.dataset import ImageDataset
from transformer.layers.execution import Execution
from transformer.models.vit import PixelsOutput
from transformer.objectives.masked_pixels import MaskedPixels

MODEL = dataclasses.replace(
    TINY["vit"], head="masked_pixels", decoder_width=8, decoder_layers=1, decoder_heads=2, kept_patches=4
)


@pytest.fixture
def setting():
    dataset = object.__new__(ImageDataset)  # what the setting asks of it is its kind
    return MaskedPixels().setting(dataset, 0, MODEL)


def record(there=1.0, seed=0):
    image = np.random.default_rng(seed).normal(size=MODEL.input_size).astype(np.float32)
    return {"image": image, "label": np.int32(1), "there": np.float32(there)}


def example(objective, setting, seed=0, **options):
    return objective.example(record(**options), np.random.default_rng(seed), setting)


def patches_of(image):
    """Patches by PyTorch's unfold, [P, row, column, channel], flat."""
    size = MODEL.patch_size
    unfolded = torch.nn.functional.unfold(torch.tensor(image).permute(2, 0, 1)[None], size, stride=size)[0]
    return unfolded.reshape(3, size, size, -1).permute(3, 1, 2, 0).reshape(-1, size * size * 3).numpy()


def test_a_quarter_is_read_and_the_rest_weighs(setting):
    made = example(MaskedPixels(), setting)
    kept = made["inputs"]["kept"]
    assert kept.dtype == np.int32
    assert len(kept) == 4
    assert (np.diff(kept) > 0).all()
    np.testing.assert_array_equal(np.flatnonzero(made["weights"] == 0), kept)
    assert made["weights"].sum() == 12
    assert example(MaskedPixels(), setting, there=0.0)["weights"].sum() == 0, "padding weighs something"


def test_every_patch_is_hidden_equally_often_and_by_the_rng_alone(setting):
    hidden = np.mean([example(MaskedPixels(), setting, seed=seed)["weights"] for seed in range(2000)], axis=0)
    np.testing.assert_allclose(hidden, 0.75, atol=0.05)
    once, again = (example(MaskedPixels(), setting, seed=3)["inputs"]["kept"] for _ in range(2))
    np.testing.assert_array_equal(once, again)


def test_targets_are_the_patches_plain_or_normalised(setting):
    plain = example(MaskedPixels(normalised=False), setting)["targets"]
    np.testing.assert_array_equal(plain, patches_of(record()["image"]))
    normalised = example(MaskedPixels(), setting)["targets"]
    np.testing.assert_allclose(normalised.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(normalised.std(axis=1), 1, atol=1e-4)


def test_the_loss_is_of_hidden_patches_alone(setting):
    objective = MaskedPixels()
    made = example(objective, setting)
    batch = {name: made[name][None] for name in ("targets", "weights")}
    told = np.random.default_rng(5).normal(size=batch["targets"].shape).astype(np.float32)
    loss_sum, weight, _ = objective.loss(PixelsOutput(told), batch)
    hidden = made["weights"] > 0
    np.testing.assert_allclose(loss_sum, ((told[0] - made["targets"])[hidden] ** 2).mean(axis=1).sum(), rtol=1e-5)
    assert weight == 12
    told[0, ~hidden] += 100.0
    assert objective.loss(PixelsOutput(told), batch)[0] == loss_sum


def test_the_encoder_sees_no_hidden_pixel(setting):
    inputs = {name: array[None] for name, array in example(MaskedPixels(), setting)["inputs"].items()}
    params, model = random_params(MODEL), MODEL.build(Execution())
    gradient = jax.grad(lambda images: model.apply({"params": params}, images, inputs["kept"]).pixels_BPC.sum())
    told = np.abs(patches_of(np.asarray(gradient(inputs["images"]))[0])).sum(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(told), inputs["kept"][0])
