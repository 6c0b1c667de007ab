"""Augmentation: how training images are varied, by a generator of each sample's own."""

import dataclasses
import functools
import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from transformer.data.images.config import ImagesConfig
from transformer.data.images.preprocessing import RESAMPLES, Preprocessing, pixels_of

_RATIOS = (3 / 4, 4 / 3)
"""The widths over heights that a random crop has."""
_MAGNITUDES = 30


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What a config makes of an image in training."""

    config: ImagesConfig
    preprocessing: Preprocessing

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> np.ndarray:
        """Returns uint8 [size, size, C]."""
        config, size = self.config, self.preprocessing.size
        if config.crop is not None:
            box = crop_box(image.width, image.height, config.crop, rng)
            image = image.resize((size, size), RESAMPLES[self.preprocessing.resample], box=box)
        if config.flip and rng.random() < config.flip:
            image = ImageOps.mirror(image)
        for _ in range(config.randaugment):
            image = randaugment(image, config.randaugment_magnitude, rng)
        pixels = pixels_of(image) if config.crop is not None else self.preprocessing.cut(image)
        return shifted(pixels, config.shift, rng) if config.shift else pixels

    @property
    def moves_alone(self) -> bool:
        """Whether an image that has the model's size keeps its pixels' values: it is mirrored or moved, at most."""
        return self.config.crop is None and not self.config.randaugment

    def moved(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns what `__call__` makes of an image of the model's size, uint8 [size, size, C], where it is moved
        alone."""
        if self.config.flip and rng.random() < self.config.flip:
            pixels = pixels[:, ::-1]
        return shifted(pixels, self.config.shift, rng) if self.config.shift else pixels

    @property
    def mixes(self) -> bool:
        """Whether two images are made one."""
        return self.config.mixup > 0 or self.config.cutmix > 0

    def mixed(self, one: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """Returns two normalised images [H, W, C] as one, and the share of the first in it."""
        config = self.config
        cuts = config.cutmix > 0 and (config.mixup == 0 or rng.random() < 0.5)
        alpha = config.cutmix if cuts else config.mixup
        share = float(rng.beta(alpha, alpha))
        if not cuts:
            return np.float32(share) * one + np.float32(1 - share) * other, share
        height, width = one.shape[:2]
        # A rectangle of the image's proportions, around a place anywhere: Yun et al. 2019, equation 2.
        tall, wide = (round(side * math.sqrt(1 - share)) for side in (height, width))
        top, left = int(rng.integers(height)) - tall // 2, int(rng.integers(width)) - wide // 2
        rows, columns = slice(max(top, 0), max(top + tall, 0)), slice(max(left, 0), max(left + wide, 0))
        image = one.copy()
        image[rows, columns] = other[rows, columns]
        replaced = image[rows, columns].shape[0] * image[rows, columns].shape[1]
        return image, 1 - replaced / (height * width)


def crop_box(
    width: int, height: int, area: tuple[float, float], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Returns left, top, right and bottom of a random part of an image (Szegedy et al. 2015, section 6).

    Args:
      width: the image's.
      height: the image's.
      area: the least and the largest share of its area.
      rng: decides.
    """
    for _ in range(10):
        target = width * height * rng.uniform(*area)
        ratio = math.exp(rng.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        wide, tall = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - tall + 1))
            return left, top, left + wide, top + tall
    # The image is longer than any crop: its middle, as near to such a ratio as can be.
    wide, tall = min(width, round(height * _RATIOS[1])), min(height, round(width / _RATIOS[0]))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def shifted(pixels: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """Returns an image [H, W, C], moved by up to `most` pixels each way; its edge fills what comes in."""
    down, right = rng.integers(-most, most + 1, 2).tolist()
    height, width = pixels.shape[:2]
    return pixels.take(_places(height, down), axis=0).take(_places(width, right), axis=1)


@functools.cache
def _places(length: int, by: int) -> np.ndarray:
    """Returns where each place of a moved axis comes from."""
    return np.clip(np.arange(length) - by, 0, length - 1)


def randaugment(image: Image.Image, magnitude: int, rng: np.random.Generator) -> Image.Image:
    """Returns an image after one operation at random (Cubuk et al. 2020, section 3, over the list of its appendix).

    Args:
      image: in the mode `RGB` or `L`.
      magnitude: how far the operation goes, from 0 to 30.
      rng: chooses the operation, and its direction where it has two.
    """
    share, sign = magnitude / _MAGNITUDES, 1 if rng.random() < 0.5 else -1
    grey = image.mode == "L"

    def transformed(*matrix: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)

    def enhanced(enhance: type) -> Image.Image:
        return enhance(image).enhance(1 + sign * 0.9 * share)

    match int(rng.integers(14)):
        case 0:
            return image
        case 1:
            return transformed(1, sign * 0.3 * share, 0, 0, 1, 0)
        case 2:
            return transformed(1, 0, 0, sign * 0.3 * share, 1, 0)
        case 3:
            return transformed(1, 0, sign * 0.45 * share * image.width, 0, 1, 0)
        case 4:
            return transformed(1, 0, 0, 0, 1, sign * 0.45 * share * image.height)
        case 5:
            return image.rotate(sign * 30 * share, Image.Resampling.BILINEAR)
        case 6:
            return enhanced(ImageEnhance.Brightness)
        case 7:
            return image if grey else enhanced(ImageEnhance.Color)
        case 8:
            return enhanced(ImageEnhance.Contrast)
        case 9:
            return enhanced(ImageEnhance.Sharpness)
        case 10:
            return ImageOps.posterize(image, 8 - round(4 * share))
        case 11:
            return ImageOps.solarize(image, round(256 * (1 - share)))
        case 12:
            return ImageOps.autocontrast(image)
        case _:
            return ImageOps.equalize(image)
