"""ViT (Dosovitskiy et al. 2021): small ones that train on a CPU, masked autoencoders, and the published sizes."""

import dataclasses
from typing import Any

from configs.recipe import Preset, small
from transformer.checkpoint import CheckpointConfig
from transformer.data.images.config import ImagesConfig
from transformer.layers.execution import Execution
from transformer.models.resizing import Shaping, scaled
from transformer.models.vit import ViTConfig
from transformer.objectives.image_classification import ImageClassification
from transformer.objectives.masked_pixels import MaskedPixels
from transformer.objectives.objective import Objective
from transformer.training.experiment import Experiment, TrainConfig
from transformer.training.optimizer import OptimizerConfig

_DIGITS: dict[str, Any] = {"image_size": 8, "patch_size": 2, "channels": 1, "num_labels": 10, "norm_epsilon": 1e-6}
_FASHION: dict[str, Any] = {"image_size": 28, "patch_size": 4, "channels": 1, "num_labels": 10, "norm_epsilon": 1e-6}


@Preset
def vit_digits() -> Experiment:
    """A small ViT on scikit-learn's handwritten digits: a minute or two on a CPU."""
    model = ViTConfig(**_DIGITS, width=64, num_layers=4, num_heads=4, mlp_width=256, class_token=False, pooling="mean")
    data = ImagesConfig(embedded="digits", shift=1, validation_fraction=0.2, mixup=0.2)
    return _small(model, ImageClassification(label_smoothing=0.1), data, steps=800, batch_size=64)


@Preset
def vit_fashion() -> Experiment:
    """A small ViT on Fashion-MNIST (--data.path, a folder with its idx files): some twenty minutes on a CPU."""
    model = ViTConfig(**_FASHION, width=64, num_layers=5, num_heads=4, mlp_width=256, class_token=False, pooling="mean")
    data = ImagesConfig(path="fashion-mnist", shift=2, flip=0.5)
    return _small(model, ImageClassification(label_smoothing=0.1), data, steps=9000, batch_size=64, eval_every=1500)


@Preset
def mae_digits() -> Experiment:
    """A small masked autoencoder on scikit-learn's digits, told no class: --init.path takes it to vit-digits."""
    model = ViTConfig(
        **_DIGITS, width=64, num_layers=4, num_heads=4, mlp_width=256, class_token=False, pooling="mean",
        head="masked_pixels", decoder_width=32, decoder_layers=2, decoder_heads=4, kept_patches=6,
    )  # fmt: skip
    data = ImagesConfig(embedded="digits", shift=1, validation_fraction=0.2)
    return _small(model, MaskedPixels(normalised=False), data, steps=3000, batch_size=64)


@Preset
def vit_scaling(width: int = 64) -> Experiment:
    """A ViT of a scaling study, of any width in multiples of 16, on Fashion-MNIST (--data.path): minutes on a CPU."""
    patches: dict[str, Any] = {**_FASHION, "patch_size": 7}  # few, so that a budget buys many images
    base = ViTConfig(**patches, width=64, num_layers=4, num_heads=4, mlp_width=256, class_token=False, pooling="mean")
    data = ImagesConfig(path="fashion-mnist", shift=2, flip=0.5)
    experiment = _small(scaled(base, width, shaping=Shaping()), ImageClassification(), data, steps=1000, batch_size=64)
    optimizer = dataclasses.replace(experiment.optimizer, schedule="wsd", cooldown_fraction=0.2)
    return dataclasses.replace(experiment, optimizer=optimizer)


@Preset
def vit_s16() -> Experiment:
    """ViT-S/16, 22M parameters, as DeiT trains it."""
    return _published(width=384, num_layers=12, num_heads=6)


@Preset
def vit_b16() -> Experiment:
    """ViT-B/16, 87M parameters, as DeiT trains it."""
    return _published(width=768, num_layers=12, num_heads=12)


@Preset
def vit_l16() -> Experiment:
    """ViT-L/16, 304M parameters, as DeiT trains it."""
    return _published(width=1024, num_layers=24, num_heads=16)


@Preset
def vit_h14() -> Experiment:
    """ViT-H/14, 632M parameters, as DeiT trains it."""
    return _published(width=1280, num_layers=32, num_heads=16, patch_size=14)


@Preset
def mae_b16() -> Experiment:
    """A masked autoencoder with ViT-B/16 (He et al. 2022, table 8): 1,600 epochs of ImageNet with crops and flips."""
    model = ViTConfig(head="masked_pixels", norm_epsilon=1e-6)
    data = ImagesConfig(tfds="imagenet2012", crop=(0.2, 1.0), flip=0.5, mean=_MEAN, std=_STD)
    optimizer = OptimizerConfig(
        learning_rate=2.4e-3, warmup_steps=12_500, b2=0.95, weight_decay=0.05, final_fraction=0.0
    )
    return _of_imagenet(model, MaskedPixels(), data, optimizer, steps=500_000, batch_size=4096)


_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's."""


def _small(
    model: ViTConfig, objective: Objective, data: ImagesConfig, *, steps: int, batch_size: int, eval_every: int = 500
) -> Experiment:
    """A small one of `recipe.small`, which evaluates on all validation images."""
    return small(
        model, objective, data=data, learning_rate=5e-3, steps=steps, batch_size=batch_size, eval_every=eval_every,
        eval_batches=None,
    )  # fmt: skip


def _published(*, width: int, num_layers: int, num_heads: int, patch_size: int = 16) -> Experiment:
    """Touvron et al. 2021, table 9: 300 epochs of ImageNet, of 1,024 images an update.

    Left out of theirs: stochastic depth, erasing and repeated augmentation, which are not here, and the teacher.
    """
    model = ViTConfig(
        width=width, num_layers=num_layers, num_heads=num_heads, mlp_width=4 * width, patch_size=patch_size,
        norm_epsilon=1e-6,
    )  # fmt: skip
    data = ImagesConfig(
        tfds="imagenet2012", crop=(0.08, 1.0), flip=0.5, randaugment=2, mixup=0.8, cutmix=1.0, edge=256,
        mean=_MEAN, std=_STD,
    )  # fmt: skip
    optimizer = OptimizerConfig(
        learning_rate=1e-3, warmup_steps=6_255, b2=0.999, weight_decay=0.05, final_fraction=0.01
    )
    return _of_imagenet(
        model, ImageClassification(label_smoothing=0.1), data, optimizer, steps=375_300, batch_size=1024
    )


def _of_imagenet(
    model: ViTConfig,
    objective: Objective,
    data: ImagesConfig,
    optimizer: OptimizerConfig,
    *,
    steps: int,
    batch_size: int,
) -> Experiment:
    return Experiment(
        name="",  # the preset's
        model=model,
        objective=objective,
        data=dataclasses.replace(data, workers=8),
        optimizer=optimizer,
        train=TrainConfig(steps=steps, batch_size=batch_size, eval_every=5000, eval_batches=None),
        checkpoint=CheckpointConfig(every=5000),
        execution=Execution(dtype="bfloat16"),
    )
