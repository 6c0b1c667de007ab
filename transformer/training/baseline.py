"""What a guess at text without reading comes to: the loss that a model must beat to have learnt of its inputs."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from transformer.data import pipeline
from transformer.data.text.dataset import TextDataset
from transformer.training.session import Session

Batch = Mapping[str, Any]
"""`targets`, `weights` and, of a sentence task, `sentence_targets`; numpy."""

ROWS = 2048
"""Rows of each split that are read at most: the first of the training run, the first that an evaluation reads."""
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Baseline:
    """The best guesses that read nothing, on the rows that an evaluation reads."""

    loss: float
    """Nats a target token, guessed by how often each is a target in training."""
    sentence_accuracy: float | None
    """The accuracy of always saying the more frequent class of sentence pairs; None without a sentence task."""


def baseline(session: Session, dataset: TextDataset) -> Baseline:
    """Returns what guessing by frequency alone comes to; on the host, and the same on every host.

    Only the first rows are scored where the validation text has more than ROWS.

    Args:
      session: what trained.
      dataset: the session's.
    """
    train = session.experiment.train
    training = pipeline.train_batches(
        dataset.train,
        dataset.weights,
        example=session.example,
        batch_size=_BATCH,  # the rows are those of the run, which do not depend on it
        seed=train.seed,
        copies=session.experiment.objective.copies,
    )
    rows = train.microbatch_size
    validation = pipeline.eval_batches(dataset.validation, example=session.example, batch_size=rows)
    limit = -(-ROWS // rows)
    if train.eval_batches is not None:
        limit = min(limit, train.eval_batches)
    with pipeline.iterate(training, 0) as seen, pipeline.iterate(validation, 0) as unseen:
        return guess(
            itertools.islice(seen, ROWS // _BATCH), itertools.islice(unseen, limit), dataset.tokenizer.vocab_size
        )


def guess(training: Iterable[Batch], validation: Iterable[Batch], vocab_size: int) -> Baseline:
    """Returns the cross entropy of `validation`'s targets under their frequencies in `training`.

    p(v) = (n_v + 1) / (n + V), where n_v is how often v is a target of `training`, by weight, n their sum and V the
    vocabulary's size (Laplace's rule of succession), so that no token is thought impossible.
    """
    counts = sum((_count(batch, vocab_size) for batch in training), np.zeros(vocab_size))
    nats = np.log(counts.sum() + vocab_size) - np.log(counts + 1)
    found, classes = np.zeros(vocab_size), np.zeros(2)
    for batch in validation:
        found += _count(batch, vocab_size)
        if "sentence_targets" in batch:  # a pair counts as often as it has targets, as in the accuracy beside it
            classes += np.bincount(batch["sentence_targets"], batch["weights"].sum(axis=1), minlength=2)
    return Baseline(
        loss=float(found @ nats / max(found.sum(), 1.0)),
        sentence_accuracy=float(classes.max() / classes.sum()) if classes.any() else None,
    )


def _count(batch: Batch, vocab_size: int) -> np.ndarray:
    """Returns how often each token is a target, by weight: float64[V]."""
    return np.bincount(batch["targets"].ravel(), batch["weights"].ravel(), minlength=vocab_size)
