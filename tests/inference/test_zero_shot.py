"""Zero-shot classification and retrieval: a label's vector, batches, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.tiny_models import TINY, random_params
from transformer.data.tokenized import tokens_of
from transformer.errors import UserError
from transformer.inference.restored import Restored
from transformer.inference.zero_shot import TwoTowersReader, retrieval
from transformer.layers.execution import Execution
from transformer.metrics.retrieval import recall
from transformer.tokenizers.raw_bytes import ByteTokenizer

CLIP = dataclasses.replace(TINY["clip"], vocab_size=384, end_id=2)
SIGLIP = dataclasses.replace(TINY["siglip"], vocab_size=384)
LABELS = ("cat", "dog", "a bird")


def restored(config):
    model = config.build(Execution())
    return Restored(config, model, random_params(config), Execution(), ByteTokenizer(), None, epath.Path(Path("run")))


@pytest.fixture(scope="module")
def reader():
    return TwoTowersReader(restored(CLIP), batch=2)


def images(count=3):
    return list(np.random.default_rng(0).normal(size=(count, *CLIP.input_size)).astype(np.float32))


@pytest.mark.parametrize("config", [CLIP, SIGLIP], ids=lambda config: config.family)
def test_probabilities_are_the_models_own(config):
    rows = [tokens_of(label, ByteTokenizer(), 16) for label in LABELS]
    tokens, segments = (np.stack([row[name] for row in rows]) for name in ("tokens", "segment_ids"))
    case = restored(config)
    out: Any = case.model.apply({"params": case.params}, jnp.stack(images()), tokens, segments)
    scores = np.exp(out.logits)
    # SigLIP learnt of each pair by itself whether it is one.
    want = scores / (1 + scores) if config is SIGLIP else scores / scores.sum(axis=1, keepdims=True)
    have = TwoTowersReader(case, batch=2).probabilities(images(), LABELS)
    np.testing.assert_allclose(have, want, atol=1e-5)


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
    with pytest.raises(UserError, match="texts of 8 tokens, for a model that reads 16, padding or not"):
        TwoTowersReader(restored(SIGLIP), length=8)
    TwoTowersReader(restored(CLIP), length=8)


def captioned(texts, length=16):
    """Returns records of random images with these captions; None: one that is left out."""
    rows = [tokens_of(text or "", ByteTokenizer(), length) for text in texts]
    there = [np.float32(text is not None) for text in texts]
    made = zip(images(len(texts)), rows, there, strict=True)
    return [{"image": image, "there": known, **row} for image, row, known in made]


def test_retrieval_ranks_each_image_among_the_different_captions(reader):
    texts = ["a cat", "a dog", "a cat", None, "a bird"]
    found = retrieval(reader, captioned(texts), ks=(1, 2, 3))
    assert (found.images, found.texts) == (4, 3)
    names = ["a cat", "a dog", "a bird"]
    kept = [image for image, text in zip(images(5), texts, strict=True) if text]
    own = np.array([0, 1, 0, 2])
    scores = reader.scores(reader.images(kept), reader.labels(names))
    ranks = (scores > scores[np.arange(4), own][:, None]).sum(axis=1)
    assert found.texts_found == {k: (ranks < k).mean() for k in (1, 2, 3)}
    assert found.texts_found[3] == 1
    best = [max(scores[own == text, text]) for text in range(3)]
    of_text = np.array([(scores[:, text] > best[text]).sum() for text in range(3)])
    assert found.images_found == {k: (of_text < k).mean() for k in (1, 2, 3)}


def test_retrieval_without_images_is_refused(reader):
    with pytest.raises(UserError, match="retrieval needs images with captions"):
        retrieval(reader, captioned([None]))
