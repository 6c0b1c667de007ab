"""Linear probe: how well a linear classifier tells classes by what a frozen encoder of images makes of them.

He et al. 2022, appendix A.1, judge an encoder so; here the classifier is scikit-learn's logistic regression on features
of mean 0 and variance 1, in place of one trained by SGD on varied images.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from transformer.data.records import Records
from transformer.errors import UserError
from transformer.inference.rows import batches
from transformer.models.image_encoder import ImageEncoderConfig, read_off

_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Sample:
    """Images and their classes."""

    images: np.ndarray
    """float32 [B, height, width, channels], as the model reads them."""
    labels: np.ndarray
    """int32 [B]."""

    @classmethod
    def of(cls, records: Sequence[Records], *, progress: bool = False) -> "Sample":
        """Returns all records, each cut to size and not varied; those that cannot be read are left out."""
        every = (part[index] for part in records for index in range(len(part)))
        total = sum(map(len, records))
        there = [one for one in tqdm(every, "read", total, unit="image", disable=not progress) if one["there"]]
        if not there:
            raise UserError("a probe needs images, and there are none")
        return cls(np.stack([one["image"] for one in there]), np.stack([one["label"] for one in there]))

    def few(self, per_class: int, seed: int = 0) -> "Sample":
        """Returns as many images of each class, drawn by the seed; all of a class that has fewer."""
        order = np.random.default_rng(seed).permutation(len(self.labels))
        chosen = [order[self.labels[order] == label][:per_class] for label in np.unique(self.labels)]
        rows = np.sort(np.concatenate(chosen))
        return Sample(self.images[rows], self.labels[rows])


def features(config: ImageEncoderConfig, model: Any, params: Any, images: np.ndarray) -> np.ndarray:
    """Returns float32 [B, D or 2 D]: what a classifier of this architecture reads of each image.

    In place of attention's pooling, whose weights a pretrained encoder need not have, the mean of the patches.

    Args:
      config: the architecture, under any head.
      model: its module, `config.build(...)`.
      params: weights, of which `backbone` is read.
      images: float32 [B, height, width, channels].
    """
    pooling = "mean" if config.pooling == "attention" else config.pooling

    @jax.jit
    def read(params: Any, images: jax.Array) -> jax.Array:
        hidden_BTD = model.apply({"params": params}, images, method=_hidden)
        return read_off(hidden_BTD, pooling, config.extra_tokens)

    made = [
        np.asarray(read(params, np.stack(filled)))[: len(chosen)] for chosen, filled in batches(list(images), _BATCH)
    ]
    return np.concatenate(made).astype(np.float32)


def accuracy(train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray) -> float:
    """Returns the share of test rows, [B, D], whose class a logistic regression on the training rows tells."""
    from sklearn.linear_model import LogisticRegression  # takes a second to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return float(classifier.fit(train, train_labels).score(test, test_labels))


def _hidden(module: Any, images: jax.Array) -> jax.Array:
    return module.backbone(images, deterministic=True)
