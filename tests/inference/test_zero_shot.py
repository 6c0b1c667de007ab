"""Zero-shot classification and retrieval: a label's vector, batches, and what is refused."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.tiny_models import TINY, random_params
from transformer.data.tokenized import tokens_of
from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.inference.zero_shot import TwoTowersReader, recall
from transformer.layers.execution import Execution
from transformer.tokenizers.raw_bytes import ByteTokenizer

CONFIG = dataclasses.replace(TINY["clip"], vocab_size=384, end_id=2)
LABELS = ("cat", "dog", "a bird")


def restored(config):
    model = config.build(Execution())
    return Restored(config, model, random_params(config), Execution(), ByteTokenizer(), None, epath.Path(Path("run")))


@pytest.fixture(scope="module")
def reader():
    return TwoTowersReader(restored(CONFIG), batch=2)


def images(count=3):
    return list(np.random.default_rng(0).normal(size=(count, *CONFIG.input_size)).astype(np.float32))


def test_probabilities_are_the_models_own(reader):
    rows = [tokens_of(label, ByteTokenizer(), 16) for label in LABELS]
    tokens, segments = (np.stack([row[name] for row in rows]) for name in ("tokens", "segment_ids"))
    case = restored(CONFIG)
    out = case.model.apply({"params": case.params}, jnp.stack(images()), tokens, segments)
    scores = np.exp(out.logits)
    have = reader.probabilities(images(), LABELS)
    np.testing.assert_allclose(have, scores / scores.sum(axis=1, keepdims=True), atol=1e-5)


def test_a_label_is_the_mean_over_templates(reader):
    vectors = reader.texts(["a cat", "cats"])
    mean = vectors.mean(axis=0)
    [label] = reader.labels(["cat"], ["a {}", "{}s"])
    np.testing.assert_allclose(label, mean / np.linalg.norm(mean), atol=1e-6)


def test_recall_counts_what_stands_among_the_first():
    scores = np.array([[3, 2, 1], [3, 2, 1], [3, 2, 1]])
    right = np.array([0, 1, 2])
    assert [recall(scores, right, k) for k in (1, 2, 3)] == [1 / 3, 2 / 3, 1]
    assert recall(np.zeros((3, 3)), right, 1) == 0  # one who tells nothing apart tells nothing


def test_what_cannot_be_read_is_refused(reader):
    with pytest.raises(UserError, match=r"template 'a photo' has no {}, which stands for the label"):
        reader.labels(LABELS, ["a photo"])
    with pytest.raises(UserError, match="give at least one label"):
        reader.labels([])
    with pytest.raises(UserError, match=r"an image of \(4, 4, 3\)"):
        reader.images([np.zeros((4, 4, 3), np.float32)])
    with pytest.raises(UserError, match="run is a bert model: only a model of images and texts"):
        TwoTowersReader(restored(TINY["bert"]))
