"""Preprocessing: from a picture of any size to the numbers that a model reads, as Hugging Face's PIL processors do it.

Shape letters: H height, W width, C channels.
"""

import dataclasses
import functools
import json
from typing import Any, Literal

import numpy as np
from PIL import Image

from transformer import checks

RESAMPLES = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


PREPROCESSING = "preprocessing.json"
"""File of a checkpoint's record: how images become arrays, and what the classes are called."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes an array, when nothing is random."""

    size: int
    """Pixels of a side of what the model reads."""
    channels: int = 3
    """3 of colour, 1 of grey."""
    resize: Literal["crop", "squash"] = "crop"
    """Whether the shorter side is resized, or both sides are; of what is larger than `size` then, the middle is cut
    out."""
    edge: int | None = None
    """Pixels that the shorter side, or both sides, are resized to; None: `size`."""
    resample: str = "bicubic"
    """How pixels are resized: one of `RESAMPLES`."""
    mean: tuple[float, ...] = (0.5,)
    """What is taken from each channel, which run from 0 to 1; one number stands for all."""
    std: tuple[float, ...] = (0.5,)
    """What each channel is divided by then."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "size", "edge")
        checks.choice(self, "resample", RESAMPLES)
        for name in ("mean", "std"):
            count = len(getattr(self, name))
            told = f"{count} numbers for {self.channels} channels"
            checks.rule(self, name, count in (1, self.channels), told)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Returns float32 [size, size, C] of an image in the mode `L` or `RGB`."""
        return self.normalised(self.cut(image))

    def cut(self, image: Image.Image) -> np.ndarray:
        """Returns uint8 [size, size, C]: the image, resized and cut."""
        edge, (width, height) = self.edge or self.size, image.size
        shorter = min(width, height)
        # The longer side is cut off, not rounded, as Transformers' `get_resize_output_image_size` has it.
        sides = edge * width // shorter, edge * height // shorter
        image = resized(image, (edge, edge) if self.resize == "squash" else sides, RESAMPLES[self.resample])
        left, top = (image.width - self.size) // 2, (image.height - self.size) // 2
        return pixels_of(image.crop((left, top, left + self.size, top + self.size)))

    def keeps(self, pixels: np.ndarray) -> bool:
        """Whether an image [H, W] or [H, W, C] is what the model reads already: `cut` would return it as it is."""
        at_size = pixels.shape[:2] == (self.size, self.size) and self.edge in (None, self.size)
        return at_size and pixels.dtype == np.uint8 and (*pixels.shape[2:], 1)[0] == self.channels

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """Returns float32 [H, W, C] of uint8 pixels: from 0 to 1, minus the mean, over the deviation."""
        scaled = np.multiply(pixels, np.float32(1 / 255), dtype=np.float32)
        mean, std = self._mean_and_std
        scaled -= mean
        scaled /= std
        return scaled

    @functools.cached_property
    def _mean_and_std(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.mean, np.float32), np.array(self.std, np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values."""
        return dataclasses.asdict(self)


def from_json(content: str) -> tuple[Preprocessing, tuple[str, ...]]:
    """Returns what `PREPROCESSING` holds: how images become arrays, and the names of the classes, if there are any."""
    record = json.loads(content)
    labels = tuple(record.pop("labels"))
    return Preprocessing(**record | {name: tuple(record[name]) for name in ("mean", "std")}), labels


def resized(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Returns an image at (width, height)."""
    return image if image.size == size else image.resize(size, resample)


def pixels_of(image: Image.Image) -> np.ndarray:
    """Returns uint8 [H, W, C]."""
    array = np.asarray(image, np.uint8)
    return array[:, :, None] if array.ndim == 2 else array
