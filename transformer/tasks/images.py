"""Images: their classes, their features, and which of some texts they show."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from transformer.data.images.decoding import decode, upright
from transformer.data.images.folders import read
from transformer.errors import UserError
from transformer.inference.pictures import preprocessing_of
from transformer.inference.restored import Restored
from transformer.inference.rows import batches
from transformer.inference.zero_shot import TwoTowersReader
from transformer.paths import expanded
from transformer.tasks.task import Options, Task, needs_head
from transformer.tasks.text_classification import FUNCTIONS, Function, classes
from transformer.transfer.graft import graft


def picture(given: Any, channels: int, number: int) -> Image.Image:
    """Returns a picture: a PIL image, or the path of a file of one."""
    if isinstance(given, str) and given.startswith(("http://", "https://")):
        raise UserError(f"input {number} is an address, and nothing is fetched: give a file, or a PIL image")
    if isinstance(given, Image.Image):
        return upright(given, f"input {number}", channels)
    try:
        path = expanded(given)
    except TypeError:
        raise UserError(f"input {number} is a {type(given).__name__}: give a file, or a PIL image") from None
    return decode(read(path), str(path), channels)


class _Images(Task):
    """A model of images, and how pictures are cut for it."""

    def __init__(self, restored: Restored):
        super().__init__(restored)
        self.preprocessing, _ = preprocessing_of(restored)

    def cut(self, inputs: Sequence[Any], first: int) -> list[np.ndarray]:
        """Returns the pictures as arrays, float32 [height, width, channels] each."""
        channels = self.preprocessing.channels
        numbered = enumerate(inputs, start=first)
        return [self.preprocessing(picture(given, channels, number)) for number, given in numbered]


class _Encoder(_Images):
    """An encoder of images."""

    def __init__(self, restored: Restored):
        super().__init__(restored)
        self._apply = jax.jit(lambda params, images: restored.model.apply({"params": params}, images))

    def outputs(self, inputs: Sequence[Any], batch_size: int, first: int) -> list[Any]:
        """Returns the model's outputs a batch, for its own images alone."""
        outputs = []
        for chosen, filled in batches(self.cut(inputs, first), batch_size):
            made = self._apply(self.restored.params, np.stack(filled))
            outputs.append(jax.tree.map(lambda leaf, own=len(chosen): np.asarray(leaf)[:own], made))
        return outputs


@dataclasses.dataclass(frozen=True)
class ImageClassOptions(Options):
    """How classes are told."""

    top_k: int | None = 5
    """Classes of each, the likeliest first; None: all."""
    function_to_apply: Function | None = None
    """As of texts: None: what the model's classes ask for."""

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}: give at least 1, or None for all classes")
        if self.function_to_apply not in (None, *FUNCTIONS):
            raise UserError(f"function_to_apply is {self.function_to_apply!r}: give {', '.join(FUNCTIONS)}, or None")


class ImageClassification(_Encoder):
    """A model with classes of images."""

    name, options = "image-classification", ImageClassOptions

    def __init__(self, restored: Restored):
        needs_head(restored, self.name, "image_classification")
        super().__init__(restored)

    def answers(self, inputs: Sequence[Any], options: ImageClassOptions, batch_size: int, first: int) -> list[Any]:
        logits = [row for made in self.outputs(inputs, batch_size, first) for row in made.logits]
        return [classes(self.restored, row, options.top_k, options.function_to_apply) for row in logits]


@dataclasses.dataclass(frozen=True)
class ImageFeatureOptions(Options):
    """How features come."""

    pool: bool = False
    """Whether they are the model's one vector an image, and not those of each of its places."""
    return_tensors: bool = False
    """Whether they come as an array, float32 [1, T, D] or [1, D], and not as lists."""


class ImageFeatures(_Encoder):
    """A model of images below its head: the hidden states of each place, in a list of one image."""

    name, options, window = "image-feature-extraction", ImageFeatureOptions, 2

    def __init__(self, restored: Restored):
        architecture: Any = restored.architecture
        if architecture.kind != "image_encoder":
            raise UserError(f"{restored.described}: image-feature-extraction needs an encoder of images")
        if architecture.head not in ("none", "unpooled"):
            head = "unpooled" if "unpooled" in architecture.heads else "none"
            wanted = dataclasses.replace(architecture, head=head)
            params, _, _ = graft(architecture, wanted, restored.params)
            model = wanted.build(restored.execution)
            restored = dataclasses.replace(restored, architecture=wanted, model=model, params=params)
        super().__init__(restored)

    def answers(self, inputs: Sequence[Any], options: ImageFeatureOptions, batch_size: int, first: int) -> list[Any]:
        features: list[Any] = []
        for made in self.outputs(inputs, batch_size, first):
            if options.pool and made.pooled_BD is None:
                raise UserError(f"{self.restored.described}: it has no one vector an image: leave pool out")
            wanted = made.pooled_BD if options.pool else made.hidden_BTD
            features += [row[None] for row in np.asarray(jnp.asarray(wanted), np.float32)]
        return features if options.return_tensors else [row.tolist() for row in features]


@dataclasses.dataclass(frozen=True)
class LabelOptions(Options):
    """What an image may show."""

    candidate_labels: tuple[str, ...] = ()
    """The labels; a string of them has commas between."""
    hypothesis_template: str = "This is a photo of {}."
    """The text that is made of each, with {} in its place."""

    def __post_init__(self) -> None:
        given = self.candidate_labels
        labels = [label.strip() for label in given.split(",")] if isinstance(given, str) else given
        object.__setattr__(self, "candidate_labels", tuple(label for label in labels if label))
        if not self.candidate_labels:
            raise UserError('zero-shot-image-classification needs candidate_labels, such as ["a cat", "a dog"]')


class ZeroShotImages(_Images):
    """A model of images and texts: how well each label fits an image, the best first."""

    name, options = "zero-shot-image-classification", LabelOptions

    def __init__(self, restored: Restored):
        self._reader = TwoTowersReader(restored)
        super().__init__(restored)

    def gathered(self, inputs: tuple[Any, ...], told: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The labels may come second."""
        if len(inputs) == 2 and "candidate_labels" not in told:
            inputs, told = inputs[:1], {**told, "candidate_labels": inputs[1]}
        return super().gathered(inputs, told)

    def answers(self, inputs: Sequence[Any], options: LabelOptions, batch_size: int, first: int) -> list[Any]:
        labels, images = options.candidate_labels, self.cut(inputs, first)
        told = []
        for row in self._reader.probabilities(images, labels, [options.hypothesis_template]):
            order = np.argsort(-row, kind="stable")
            told.append([{"score": float(row[number]), "label": labels[number]} for number in map(int, order)])
        return told
