"""What the tests of image encoders share: pairs of models, and a batch of images."""

import dataclasses
from typing import Any

import jax
import numpy as np
import torch

from . import parity


def images(config: Any, *, size: int | None = None, seed: int = 0) -> np.ndarray:
    """Returns three images, float32 [3, height, width, channels], of the model's size or another."""
    side = config.image_size if size is None else size
    return np.random.default_rng(seed).normal(size=(3, side, side, config.channels)).astype(np.float32)


def pixels(images: np.ndarray) -> torch.Tensor:
    """Returns images as Transformers' models read them, [B, channels, height, width]."""
    return torch.tensor(images).permute(0, 3, 1, 2)


def make_pair(family: Any, shape: Any, head: str) -> parity.Pair:
    """Returns both sides of a shape under a head, of five classes where the head has classes."""
    labels = 5 if head == "image_classification" else shape.num_labels
    return parity.make_pair(family, dataclasses.replace(shape, head=head, num_labels=labels))


def their_outputs(pair: parity.Pair, batch: np.ndarray, model: Any = None, **options: Any) -> list[torch.Tensor]:
    """Returns the outputs of Transformers' model: of images, or hidden states and a vector an image."""
    out = (model or pair.theirs)(pixel_values=pixels(batch), **options)
    if "logits" in out:
        return [out.logits]
    return [out.last_hidden_state, *([] if out.get("pooler_output") is None else [out.pooler_output])]


def attentions(pair: parity.Pair, batch: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Returns what each place attends to in Transformers' model, [B, H, T, T] a layer."""
    with torch.no_grad():
        return pair.theirs(pixel_values=pixels(batch), output_attentions=True).attentions


def our_outputs(out: Any) -> list[jax.Array]:
    """Returns our model's outputs, likewise."""
    if hasattr(out, "logits"):
        return [out.logits]
    return [out.hidden_BTD, *([] if out.pooled_BD is None else [out.pooled_BD])]


def assert_outputs(pair: parity.Pair, batch: np.ndarray, **options: Any) -> None:
    """Asserts equal outputs, relative to their largest values."""
    have, want = our_outputs(pair.apply({"images": batch})), their_outputs(pair, batch, **options)
    assert len(have) == len(want)
    for ours, theirs in zip(have, want, strict=True):
        size = max(float(theirs.detach().abs().max()), 1.0)
        parity.assert_near(ours / size, theirs / size)


def assert_gradients(pair: parity.Pair) -> None:
    """Asserts equal gradients of a random projection of the first output."""
    batch = images(pair.config)
    _, weights = parity.weighted_sum(our_outputs(pair.apply({"images": batch}))[0])
    parity.assert_gradients(
        pair,
        {"images": batch},
        lambda out: (our_outputs(out)[0] * weights).sum(),
        lambda model: (their_outputs(pair, batch, model)[0] * torch.tensor(weights)).sum(),
    )
