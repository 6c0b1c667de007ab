"""What the tests of models with two towers share: a batch of images and texts, and both sides' outputs."""

from typing import Any

import jax
import numpy as np
import torch

from . import images, parity

NAMES = ("image_embeds", "text_embeds", "logits_per_image")


def batch_of(config: Any, *, end_id: int | None = None, length: int = 9, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns three images, and four texts that end at different places; the last is full.

    Args:
      config: ours.
      end_id: what ends each text; None: its own last id.
      length: T.
      seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    ends = np.array([3, length - 4, length - 2, length - 1])
    segments = (np.arange(length) <= ends[:, None]).astype(np.int32)
    tokens = rng.integers(3, config.vocab_size - 1, segments.shape).astype(np.int32)
    if end_id is not None:
        tokens[np.arange(4), ends] = end_id
    return {
        "images": images.images(config, seed=seed),
        "tokens": np.where(segments, tokens, 0),
        "segment_ids": segments,
    }


def their_outputs(pair: parity.Pair, batch: dict, model: Any = None, *, masked: bool = True, **options: Any) -> list:
    """Returns Transformers' vectors of images and texts, of length 1, and the scores."""
    mask = {"attention_mask": parity.tensor(batch["segment_ids"])} if masked else {}
    out = (model or pair.theirs)(
        pixel_values=images.pixels(batch["images"]), input_ids=parity.tensor(batch["tokens"]), **mask, **options
    )
    return [out[name] for name in NAMES]


def our_outputs(out: Any) -> list[jax.Array]:
    """Returns ours, likewise."""
    return [out.images_BP, out.texts_NP, out.logits]


def assert_outputs(pair: parity.Pair, batch: dict, **options: Any) -> None:
    """Asserts equal outputs, relative to their largest values."""
    have, want = our_outputs(pair.apply(batch)), their_outputs(pair, batch, **options)
    for ours, theirs in zip(have, want, strict=True):
        size = max(float(theirs.detach().abs().max()), 1.0)
        parity.assert_near(ours / size, theirs / size)


def assert_gradients(pair: parity.Pair, batch: dict, **options: Any) -> None:
    """Asserts equal gradients of a random projection of the scores."""
    _, weights = parity.weighted_sum(pair.apply(batch).logits)
    parity.assert_gradients(
        pair,
        batch,
        lambda out: (out.logits * weights).sum(),
        lambda model: (their_outputs(pair, batch, model, **options)[-1] * torch.tensor(weights)).sum(),
    )
