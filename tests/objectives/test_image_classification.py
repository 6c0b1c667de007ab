"""Classes of images: the loss is PyTorch's, mixed images have both classes, padding weighs nothing."""

import dataclasses

import numpy as np
import pytest
import torch

from transformer.data.images.config import ImagesConfig
from transformer.data.images.records import ImageReading
from transformer.data.kinds import open_dataset
from transformer.data.text.config import TextConfig
from transformer.errors import UserError
from transformer.layers.heads import ClassificationOutput
from transformer.models.vit import ViTConfig
from transformer.objectives.image_classification import ImageClassification
from transformer.objectives.masked_pixels import MaskedPixels
from transformer.training.experiment import Experiment
from transformer.training.session import Session


def record(label=2, other=0, share=1.0, there=1.0):
    image = np.random.default_rng(0).normal(size=(8, 8, 1)).astype(np.float32)
    values = {"label": np.int32(label), "other_label": np.int32(other), "share": np.float32(share)}
    return {"image": image, "there": np.float32(there), **values}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("classes", [4, 9])
def test_the_loss_is_torchs(smoothing, classes):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, classes)).astype(np.float32)
    targets = rng.dirichlet(np.ones(classes), 6).astype(np.float32)
    weights = np.array([1, 1, 0, 1, 0, 1], np.float32)
    objective = ImageClassification(label_smoothing=smoothing)
    loss, weight, metrics = objective.loss(ClassificationOutput(logits), {"targets": targets, "weights": weights})
    want = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(targets), label_smoothing=smoothing, reduction="none"
    ).numpy()
    assert float(loss) == pytest.approx((want * weights).sum(), rel=1e-6)
    assert float(weight) == 4
    told = logits.argmax(axis=1) == targets.argmax(axis=1)
    assert float(metrics["accuracy"]) == (told * weights).sum()
    assert ("top5" in metrics) == (classes > 5)
    if classes > 5:
        best = np.argsort(-logits, axis=1)[:, :5]
        assert float(metrics["top5"]) == ((best == targets.argmax(axis=1)[:, None]).any(axis=1) * weights).sum()


def test_an_example_has_the_share_of_each_class():
    rng = np.random.default_rng(0)
    example = ImageClassification().example(record(2, 0, 0.75), rng, 4)
    assert example["targets"].tolist() == [0.25, 0, 0.75, 0]
    assert ImageClassification().example(record(2, 2, 0.75), rng, 4)["targets"].tolist() == [0, 0, 1, 0]
    empty = {name: np.zeros_like(values) for name, values in record().items()}
    assert ImageClassification().example(empty, rng, 4)["weights"] == 0


TINY = ViTConfig(
    image_size=8, patch_size=2, channels=1, width=16, num_layers=1, num_heads=2, mlp_width=16, num_labels=10
)


@pytest.mark.parametrize(
    ("model", "objective", "data", "words"),
    [
        ({"num_labels": 9}, ImageClassification(), ImagesConfig(), "--model.num-labels 9: the data have 10 classes"),
        ({}, ImageClassification(), TextConfig(path="a.txt"), "the objective reads no text, which --data is"),
        ({}, ImageClassification(), ImagesConfig(embedded="shapes"), "these images have captions and no classes"),
    ],
)
def test_what_does_not_fit_is_refused(model, objective, data, words):
    experiment = Experiment("a", dataclasses.replace(TINY, **model), objective, data)
    with pytest.raises(UserError, match=words):
        _ = Session(experiment).dataset


def test_hidden_patches_are_those_that_weigh():
    objective = MaskedPixels()
    dataset = open_dataset(ImagesConfig(), ImageReading(), vocab_size=None, input_size=(8, 8, 1))
    model = dataclasses.replace(
        TINY, head="masked_pixels", kept_patches=6, decoder_width=16, decoder_heads=2, decoder_layers=1
    )
    setting = objective.setting(dataset, 1, model)
    one, other = (objective.example(record(), np.random.default_rng(seed), setting) for seed in (0, 1))
    kept = one["inputs"]["kept"]
    assert (np.diff(kept) > 0).all()
    assert len(kept) == 6
    assert one["weights"].sum() == 10
    assert not one["weights"][kept].any()
    assert (kept != other["inputs"]["kept"]).any()
    np.testing.assert_allclose(one["targets"].mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(one["targets"].std(axis=1), 1, atol=1e-3)
    # The second patch of the first row: its pixels row by row.
    plain = MaskedPixels(normalised=False).example(record(), np.random.default_rng(0), setting)
    np.testing.assert_array_equal(plain["targets"][1], record()["image"][0:2, 2:4].reshape(-1))
