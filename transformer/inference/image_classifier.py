"""Image classification: pictures in, the likeliest classes out; and where the model looked.

Shape letters: N layers, H heads, T patches and what joins them, K head width.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from tqdm import tqdm

from transformer.errors import UserError
from transformer.inference.pictures import preprocessing_of
from transformer.inference.restored import Restored
from transformer.inference.rows import batches, filled


@dataclasses.dataclass(frozen=True)
class Guess:
    """A class, and how likely it is."""

    label: str
    probability: float


def likeliest(probabilities: np.ndarray, labels: Sequence[str], top: int) -> list[Guess]:
    """Returns the `top` classes of the highest probabilities, the likeliest first."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [Guess(labels[number], float(probabilities[number])) for number in map(int, order)]


class ImageClassifier:
    """A model that tells the classes of images.

    Args:
      restored: a run, or an imported model.

    Raises:
      UserError: it tells no classes of images, or does not say how images are cut to size.
    """

    def __init__(self, restored: Restored):
        architecture: Any = restored.architecture
        if architecture.kind != "image_encoder" or architecture.head != "image_classification":
            raise UserError(
                f"{restored.checkpoint} is a {architecture.family} model with the head {architecture.head}: it tells "
                "no classes of images"
            )
        self.preprocessing, labels = preprocessing_of(restored)
        labels = architecture.labels or labels  # of a run they lie beside its preprocessing
        self.labels = (*labels, *architecture.class_names[len(labels) :])
        self._architecture, self._model, self._params = architecture, restored.model, restored.params

        @jax.jit
        def logits(params: Any, images: jax.Array) -> jax.Array:
            outputs: Any = restored.model.apply({"params": params}, images)
            return outputs.logits

        self._logits = logits

    def __call__(
        self, pictures: Sequence[Image.Image], *, top: int = 5, batch_size: int = 32, progress: bool = False
    ) -> list[list[Guess]]:
        """Returns the likeliest classes of each picture, the likeliest first.

        Args:
          pictures: in the mode `RGB`, or `L` where the model reads grey.
          top: classes of each, at most.
          batch_size: pictures that are looked at together.
          progress: whether to show a progress bar.
        """
        guesses: list[list[Guess]] = []
        with tqdm(total=len(pictures), unit="image", desc="classify", disable=not progress) as bar:
            for chosen, alike in batches(pictures, batch_size):
                images = np.stack(filled([self.preprocessing(picture) for picture in chosen], len(alike)))
                probabilities = np.asarray(jax.nn.softmax(self._logits(self._params, images)))[: len(chosen)]
                guesses += [likeliest(row, self.labels, top) for row in probabilities]
                bar.update(len(chosen))
        return guesses

    def attention(self, picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the model looks: float32 [side, side] by rollout, and [N, H, side, side] by each head.

        A head's own is what the class token attends to, or all patches on average where the classifier reads no such
        token. Rollout (Abnar and Zuidema 2020, "Quantifying attention flow in Transformers", section 3) multiplies the
        layers' attention, averaged over heads, half of each being what passes by.
        """
        images = self.preprocessing(picture)[None]
        probabilities_NHTT = np.asarray(attention_of(self._model, self._params, images))[:, 0]
        return self._of_patches(rollout(probabilities_NHTT)), self._of_patches(probabilities_NHTT)

    def _of_patches(self, attention: np.ndarray) -> np.ndarray:
        """Returns [..., side, side] of [..., T, T]: what is read of each patch."""
        config = self._architecture
        rows = attention[..., 0, :] if config.pooling.startswith("class") else attention.mean(axis=-2)
        return rows[..., config.extra_tokens :].reshape(*rows.shape[:-1], config.side, config.side)


def attention_of(model: Any, params: Any, images: np.ndarray) -> jax.Array:
    """Returns float32 [N, B, H, T, T]: what each place of an image attends to, by layer and head.

    Args:
      model: an encoder of images.
      params: its weights.
      images: float32 [B, height, width, channels].
    """
    _, sown = model.apply({"params": params}, images, mutable=["attended"])
    attended = sown["attended"]["backbone"]["stack"]["layers"]["attention"]
    query_NBTHK, key_NBSHK = (jnp.asarray(attended[name]).astype(jnp.float32) for name in ("queries", "keys"))
    scores_NBHTS = jnp.einsum("NBTHK,NBSHK->NBHTS", query_NBTHK, key_NBSHK) * query_NBTHK.shape[-1] ** -0.5
    return jax.nn.softmax(scores_NBHTS)


def rollout(attention_NHTT: np.ndarray) -> np.ndarray:
    """Returns [T, T]: what of each place comes to each place through all layers."""
    tokens = attention_NHTT.shape[-1]
    whole = np.eye(tokens, dtype=np.float32)
    for layer in attention_NHTT.mean(axis=1):
        whole = (layer + np.eye(tokens, dtype=np.float32)) / 2 @ whole
    return whole
