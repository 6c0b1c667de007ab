"""Images told among texts that a model never saw as classes: zero-shot classification, and retrieval.

Radford et al. 2021, section 3.1: a class is the mean of the vectors of the texts that templates make of its name.

Shape letters: B batch of images, N texts, L labels, P width of the vectors.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from transformer.data.records import Records
from transformer.data.tokenized import tokens_of
from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.inference.rows import batches
from transformer.inference.templates import PLAIN, spelled_out
from transformer.metrics.retrieval import recall


class TwoTowersReader:
    """A model with two towers, which makes vectors of images and texts.

    Args:
      restored: the model.
      batch: images, or texts, that are computed at a time.
      length: tokens of a text; longer ones are cut. None: as many as the model has positions for.

    Raises:
      UserError: it is another model, or reads texts of another length.
    """

    def __init__(self, restored: Restored, *, batch: int = 64, length: int | None = None):
        architecture: Any = restored.architecture
        if architecture.kind != "two_towers":
            raise UserError(
                f"{restored.checkpoint} is a {architecture.family} model: only a model of images and texts, such as "
                "CLIP, tells images among texts"
            )
        self._params, self._batch, self._tokenizer = restored.params, batch, restored.tokenizer
        context = architecture.longest_input
        self._length = context if length is None else length
        if self._length != context and getattr(architecture, "reads_padding", False):
            raise UserError(f"texts of {length} tokens, for a model that reads {context}, padding or not")
        self._size = architecture.input_size
        self._each_alone = architecture.similarity_bias
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
        return self.rows([tokens_of(text, self._tokenizer, self._length or 0) for text in texts])

    def rows(self, rows: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Returns float32 [N, P], of length 1, of texts as `tokens` and `segment_ids`, int32 [T] each."""
        names = ("tokens", "segment_ids")
        return self._vectors(
            rows, "texts_NP", lambda chosen: {name: np.stack([row[name] for row in chosen]) for name in names}
        )

    def labels(self, labels: Sequence[str], templates: Sequence[str] = PLAIN) -> np.ndarray:
        """Returns float32 [L, P], of length 1: a vector a label, the mean over templates.

        Args:
          labels: names of classes.
          templates: texts with {} in the place of the name.

        Raises:
          UserError: no label, or a template without a place for it.
        """
        vectors = self.texts(spelled_out(labels, templates))
        return _of_length_1(vectors.reshape(len(labels), len(templates), -1).mean(axis=1))

    def scores(self, images_BP: np.ndarray, texts_NP: np.ndarray) -> np.ndarray:
        """Returns float32 [B, N]: how well each image fits each text, as the model was trained to tell."""
        nothing = self._apply({"params": self._params})
        return np.asarray(nothing.similarities(images_BP, texts_NP))

    def probabilities(
        self, images: Sequence[np.ndarray], labels: Sequence[str], templates: Sequence[str] = PLAIN
    ) -> np.ndarray:
        """Returns float32 [B, L]: of each image, which of the labels it shows; arguments as above.

        They add up to 1, but of a model that learnt of each pair by itself whether it is one (SigLIP): its tell of
        each label alone whether the image shows it.
        """
        scores_BL = self.scores(self.images(images), self.labels(labels, templates))
        return np.asarray(jax.nn.sigmoid(scores_BL) if self._each_alone else jax.nn.softmax(scores_BL, axis=-1))

    def _vectors(self, items: Sequence[Any], name: str, inputs: Any) -> np.ndarray:
        """Returns a vector an item, a batch at a time."""
        made = []
        for chosen, filled in batches(items, self._batch):
            vectors = getattr(self._apply({"params": self._params}, **inputs(filled)), name)
            made.append(np.asarray(vectors)[: len(chosen)])
        return np.concatenate(made)


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """How well images and their texts find each other among all of a split."""

    images: int
    texts: int
    """Different ones."""
    texts_found: dict[int, float]
    """k -> the share of images whose text is among the k that fit best."""
    images_found: dict[int, float]
    """k -> the share of texts of which an image is among the k that fit best."""


def retrieval(reader: TwoTowersReader, records: Records, *, ks: Sequence[int] = (1, 5)) -> Retrieval:
    """Returns how well all images and texts of some records, such as a validation split's, find each other.

    Args:
      reader: a model.
      records: images and captions, of the length that the model was trained with; those left out do not count.
      ks: of recall at k.

    Raises:
      UserError: there is none.
    """
    there = [record for record in (records[index] for index in range(len(records))) if record["there"]]
    if not there:
        raise UserError("retrieval needs images with captions, and there are none")
    numbers: dict[bytes, int] = {}
    text_of = np.array([numbers.setdefault(record["tokens"].tobytes(), len(numbers)) for record in there])
    firsts = [there[row] for row in np.unique(text_of, return_index=True)[1]]
    scores_BN = reader.scores(reader.images([record["image"] for record in there]), reader.rows(firsts))
    own_BN = text_of[:, None] == np.arange(len(firsts))
    best_N = np.where(own_BN, scores_BN, -np.inf).argmax(axis=0)
    return Retrieval(
        len(there),
        len(firsts),
        {k: recall(scores_BN, text_of, k) for k in ks},
        {k: recall(scores_BN.T, best_N, k) for k in ks},
    )


def _of_length_1(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
