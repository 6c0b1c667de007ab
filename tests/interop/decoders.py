"""What the decoder-only families' tests share: one batch for every head, and what each head gives on both sides."""

from typing import Any

import numpy as np
import torch

from transformer.models.architecture import Architecture

from . import parity

PAD = 0
"""Transformers' sequence classifiers find the last token by its id: no real token is this one, and all padding is."""


def make_pair(family: Any, config: Architecture) -> parity.Pair:
    """Returns both sides, with an id for padding."""
    return parity.make_pair(family, config, pad_token_id=PAD)


def rows(config: Architecture, length: int) -> dict[str, np.ndarray]:
    """Returns the rows of `parity.rows`, their padding by id too."""
    batch = parity.rows(config, length, low=PAD + 1)
    batch["tokens"][batch["segment_ids"] == 0] = PAD
    return batch


def their_scores(model: Any, batch: dict[str, np.ndarray]) -> torch.Tensor:
    """Returns what a model of Transformers gives: logits of any kind, or hidden states."""
    out = model(
        parity.tensor(batch["tokens"]),
        attention_mask=parity.tensor(batch["segment_ids"]),
        position_ids=parity.tensor(batch["positions"]),
    )
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], dim=-1)
    return out.logits if "logits" in out else out.last_hidden_state


def our_scores(out: Any, config: Any) -> Any:
    """Returns our model's outputs, likewise."""
    return out.hidden_BTD if config.head == "none" else out.logits


def assert_scores(pair: parity.Pair, length: int) -> None:
    """Asserts equal outputs where tokens are real; of whole rows, for a sequence classifier."""
    batch = rows(pair.config, length)
    have = our_scores(pair.apply(batch), pair.config)
    real = None if have.ndim == 2 else batch["segment_ids"] > 0
    parity.assert_near(have, their_scores(pair.theirs, batch), real)


def assert_gradients(pair: parity.Pair, length: int) -> None:
    """Asserts equal gradients of a random sum of the outputs of real tokens."""
    batch = rows(pair.config, length)
    real = batch["segment_ids"][:, :, None]
    _, weights = parity.weighted_sum(np.asarray(our_scores(pair.apply(batch), pair.config)))
    weights = weights if weights.ndim == 2 else weights * real  # a sequence's scores are its last real token's

    parity.assert_gradients(
        pair,
        batch,
        lambda out: (our_scores(out, pair.config) * weights).sum(),
        lambda model: (their_scores(model, batch) * torch.tensor(weights)).sum(),
    )


def assert_reloads(pair: parity.Pair, folder: Any) -> None:
    """Asserts that Transformers loads what is written. (One row: the folder says nothing of padding.)"""
    batch = {name: array[:1] for name, array in rows(pair.config, 7).items()}
    parity.assert_reloads(pair, folder, lambda model: their_scores(model, batch))
