"""Images told among texts that a model never saw as classes: zero-shot classification, and retrieval.

Radford et al. 2021, section 3.1: a class is the mean of the vectors of the texts that templates make of its name.

Shape letters: B batch of images, N texts, L labels, P width of the vectors.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from transformer.data.tokenized import tokens_of
from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.inference.rows import batches

PLAIN = ("{}",)
"""The templates that leave a label as it is."""


class TwoTowersReader:
    """A model with two towers, which makes vectors of images and texts.

    Args:
      restored: the model.
      batch: images, or texts, that are computed at a time.
      length: tokens of a text; longer ones are cut. None: as many as the model has positions for.

    Raises:
      UserError: it is another model.
    """

    def __init__(self, restored: Restored, *, batch: int = 64, length: int | None = None):
        architecture = restored.architecture
        if architecture.kind != "two_towers":
            raise UserError(
                f"{restored.checkpoint} is a {architecture.family} model: only a model of images and texts, such as "
                "CLIP, tells images among texts"
            )
        self._params, self._batch, self._tokenizer = restored.params, batch, restored.tokenizer
        self._length = architecture.longest_input if length is None else length
        self._size = architecture.input_size
        self._apply = jax.jit(restored.model.apply)

    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Returns float32 [B, P], of length 1; UserError for an image of another size than the model's.

        Args:
          images: float32 [height, width, channels] each, as the run's preprocessing makes them.
        """
        for image in images:
            if image.shape != self._size:
                raise UserError(f"an image of {image.shape} (height, width, channels), for a model of {self._size}")
        return self._vectors(images, "images_BP", lambda chosen: {"images": np.stack(chosen)})

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns float32 [N, P], of length 1."""
        rows = [tokens_of(text, self._tokenizer, self._length or 0) for text in texts]
        return self._vectors(
            rows, "texts_NP", lambda chosen: {name: np.stack([row[name] for row in chosen]) for name in rows[0]}
        )

    def labels(self, labels: Sequence[str], templates: Sequence[str] = PLAIN) -> np.ndarray:
        """Returns float32 [L, P], of length 1: a vector a label, the mean over templates.

        Args:
          labels: names of classes.
          templates: texts with {} in the place of the name.

        Raises:
          UserError: no label, or a template without a place for it.
        """
        if not labels or not templates:
            raise UserError("give at least one label, and one template")
        for template in templates:
            if "{}" not in template:
                raise UserError(f"template {template!r} has no {{}}, which stands for the label")
        vectors = self.texts([template.replace("{}", label) for label in labels for template in templates])
        return _of_length_1(vectors.reshape(len(labels), len(templates), -1).mean(axis=1))

    def scores(self, images_BP: np.ndarray, texts_NP: np.ndarray) -> np.ndarray:
        """Returns float32 [B, N]: how well each image fits each text, as the model was trained to tell."""
        nothing = self._apply({"params": self._params})
        return np.asarray(nothing.similarities(images_BP, texts_NP))

    def probabilities(
        self, images: Sequence[np.ndarray], labels: Sequence[str], templates: Sequence[str] = PLAIN
    ) -> np.ndarray:
        """Returns float32 [B, L]: of each image, which of the labels it shows; arguments as above."""
        return np.asarray(jax.nn.softmax(self.scores(self.images(images), self.labels(labels, templates)), axis=-1))

    def _vectors(self, items: Sequence[Any], name: str, inputs: Any) -> np.ndarray:
        """Returns a vector an item, a batch at a time."""
        made = []
        for chosen, filled in batches(items, self._batch):
            vectors = getattr(self._apply({"params": self._params}, **inputs(filled)), name)
            made.append(np.asarray(vectors)[: len(chosen)])
        return np.concatenate(made)


def recall(scores_BN: np.ndarray, right_B: np.ndarray, k: int) -> float:
    """Returns the share of rows whose right column is among the `k` with the highest scores.

    Of the columns with an equal score, half count as above it.

    Args:
      scores_BN: of queries and what is sought.
      right_B: of each query, the column that it seeks.
      k: columns that are looked at.
    """
    own_B1 = scores_BN[np.arange(len(right_B)), right_B][:, None]
    above_B = (scores_BN > own_B1).sum(axis=1) + (np.sum(scores_BN == own_B1, axis=1) - 1) / 2
    return float((above_B < k).mean())


def _of_length_1(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
