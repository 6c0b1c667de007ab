"""Images that need no files: handwritten digits that scikit-learn brings along, and shapes that are drawn here."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from PIL import Image, ImageDraw

from transformer.data.images.source import ImageSource, Picture
from transformer.data.splits import Split, digest, held_out, key_hashes

SIDE = 32
"""Pixels of a side of a drawn image."""
_DRAWN = {"train": 8192, "validation": 512}
COLOURS = {"red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 119, 180), "yellow": (230, 200, 30)}
SHAPES = ("circle", "square", "triangle")
RELATIONS = ("above", "to the left of")
_HELD_OUT = 0.2
"""The share of the pictures' contents that no training image has."""


class Digits(ImageSource):
    """The 1,797 digits of Alpaydin and Kaynak 1998 (8 x 8 pixels), as scikit-learn has them."""

    labels = tuple("0123456789")

    @functools.cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_digits  # takes a second to import

        bunch: Any = load_digits()
        images = np.round(bunch["images"] * 255 / 16).astype(np.uint8)  # ink from 0 to 16
        return images, bunch["target"].astype(np.int32)

    def __len__(self) -> int:
        return len(self._arrays[1])

    def __getitem__(self, index: int) -> Picture:
        images, labels = self._arrays
        return Picture(images[index], f"digit {index}", int(labels[index]))

    @property
    def fingerprint(self) -> str:
        images, _ = self._arrays
        return digest(["digits", xxhash.xxh3_128_hexdigest(images.tobytes())])


def all_scenes() -> list[tuple[str, str, str]]:
    """Returns (object, relation, object) of every scene: two objects that differ, one above or left of the other."""
    objects = [f"{colour} {shape}" for colour, shape in itertools.product(COLOURS, SHAPES)]
    return [(one, relation, other) for one, other in itertools.permutations(objects, 2) for relation in RELATIONS]


def scenes(split: Split) -> list[tuple[str, str, str]]:
    """Returns the scenes of a split; no scene is in both."""
    every = all_scenes()
    held = held_out(key_hashes(" ".join(scene) for scene in every), _HELD_OUT)
    return [scene for scene, is_held in zip(every, held, strict=True) if is_held == (split == "validation")]


def caption_of(scene: tuple[str, str, str]) -> str:
    """Returns what is said of a scene: a red circle above a blue square."""
    one, relation, other = scene
    return f"a {one} {relation} a {other}"


class Shapes(ImageSource):
    """Two coloured shapes on a grey ground; image i is drawn by a generator of i alone."""

    def __init__(self, split: Split):
        self._split: Split = split
        self._scenes = scenes(split)

    def __len__(self) -> int:
        return _DRAWN[self._split]

    def __getitem__(self, index: int) -> Picture:
        scene = self._scenes[index % len(self._scenes)]
        rng = np.random.default_rng((index, self._split == "validation"))
        return Picture(drawn(scene, rng), f"{self._split} image {index}", caption=caption_of(scene))

    @property
    def fingerprint(self) -> str:
        return digest(["shapes", self._split, str(len(self)), *map(caption_of, self._scenes)])

    def texts(self) -> Sequence[str]:
        said = [caption_of(scene) for scene in self._scenes]
        return [said[index % len(said)] for index in range(len(self))]


def drawn(scene: tuple[str, str, str], rng: np.random.Generator) -> np.ndarray:
    """Returns a picture of a scene, uint8 [SIDE, SIDE, 3]: sizes, places and the ground are drawn at random."""
    image = Image.new("RGB", (SIDE, SIDE), tuple(int(value) for value in rng.integers(90, 170, 1).repeat(3)))
    draw = ImageDraw.Draw(image)
    one, relation, other = scene
    for place, thing in enumerate((one, other)):
        colour, shape = thing.split()
        radius = float(rng.uniform(4, 7))
        along, across = 8 + 16 * place + rng.uniform(-1, 1), 16 + rng.uniform(-8, 8)
        x, y = (across, along) if relation == "above" else (along, across)
        box = [x - radius, y - radius, x + radius, y + radius]
        if shape == "circle":
            draw.ellipse(box, COLOURS[colour])
        elif shape == "square":
            draw.rectangle(box, COLOURS[colour])
        else:
            draw.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], COLOURS[colour])
    noise = rng.normal(0, 6, (SIDE, SIDE, 3))
    return np.clip(np.asarray(image) + noise, 0, 255).round().astype(np.uint8)
