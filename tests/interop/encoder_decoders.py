"""What the encoder-decoders' tests share: a batch padded on both sides of both sequences, and each head's outputs."""

from typing import Any

import jax
import numpy as np
import torch

from . import parity


def rows(config: Any, length: int, target_length: int, *, end: int | None = None) -> dict[str, np.ndarray]:
    """Returns three pairs: sources as in `parity.rows`; targets full, padded on the right, and on the left.

    Positions are indices, padding's too: Transformers has no other.

    Args:
      config: ours.
      length: tokens of a source; `target_length`: of a target.
      end: the id that ends each source and is nowhere else; targets are then the sources, and end where they do.
    """
    source = parity.rows(config, length, low=0 if end is None else end + 1)
    rng = np.random.default_rng(1)
    segments = np.ones((3, target_length), np.int32)
    segments[1, -3:] = 0
    segments[2, :2] = 0
    tokens = rng.integers(0, config.vocab_size, (3, target_length)).astype(np.int32)
    if end is not None:
        tokens, segments = source["tokens"].copy(), source["segment_ids"]
        last = length - 1 - np.argmax(segments[:, ::-1], axis=1)
        source["tokens"][np.arange(3), last] = end
    arange = lambda array: np.tile(np.arange(array.shape[1], dtype=np.int32), (3, 1))  # noqa: E731
    return {
        "tokens": source["tokens"],
        "positions": arange(source["tokens"]),
        "segment_ids": source["segment_ids"],
        "decoder_tokens": tokens,
        "decoder_positions": arange(tokens),
        "decoder_segment_ids": segments,
    }


def their_scores(model: Any, batch: dict[str, np.ndarray]) -> torch.Tensor:
    """Returns what a model of Transformers gives: logits of any kind, or hidden states."""
    out = model(
        parity.tensor(batch["tokens"]),
        attention_mask=parity.tensor(batch["segment_ids"]),
        decoder_input_ids=parity.tensor(batch["decoder_tokens"]),
        decoder_attention_mask=parity.tensor(batch["decoder_segment_ids"]),
        use_cache=False,
    )
    if "start_logits" in out:
        return torch.stack([out.start_logits, out.end_logits], dim=-1)
    return out.logits if "logits" in out else out.last_hidden_state


def our_scores(out: Any, config: Any) -> jax.Array:
    """Returns our model's outputs, likewise."""
    return out.hidden_BTD if config.head == "none" else out.logits


def assert_scores(pair: parity.Pair, batch: dict[str, np.ndarray]) -> None:
    """Asserts equal outputs where tokens are real; of whole rows, for a sequence classifier."""
    have = our_scores(pair.apply(batch), pair.config)
    real = None if have.ndim == 2 else batch["decoder_segment_ids"] > 0
    parity.assert_near(have, their_scores(pair.theirs, batch), real)


def assert_gradients(pair: parity.Pair, batch: dict[str, np.ndarray]) -> None:
    """Asserts equal gradients of a random sum of the outputs of real tokens."""
    real = batch["decoder_segment_ids"][:, :, None]
    shape = (*batch["decoder_tokens"].shape, pair.config.vocab_size)
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32) * real / np.prod(shape) ** 0.5
    weights = weights.astype(np.float32)
    parity.assert_gradients(
        pair,
        batch,
        lambda out: (our_scores(out, pair.config) * weights).sum(),
        lambda model: (their_scores(model, batch) * torch.tensor(weights)).sum(),
    )
