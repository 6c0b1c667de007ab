"""A prefix that is fully visible, against Transformers' models with the same mask, written out."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.exhaustive import few
from transformer.interop.gpt import GPT2
from transformer.interop.llama import LLAMA, MISTRAL
from transformer.models.gpt import GPTConfig
from transformer.models.llama import LlamaConfig

from . import parity

_LLAMA = LlamaConfig(
    vocab_size=41, context_length=32, width=18, num_layers=2, num_heads=6, num_kv_heads=3, head_width=4, mlp_width=23,
    rotary_base=1e4,
)  # fmt: skip
MODELS = {
    "gpt2": (GPT2, GPTConfig(vocab_size=37, context_length=32, width=20, num_layers=3, num_heads=5)),
    "llama": (LLAMA, _LLAMA),
    "mistral": (MISTRAL, dataclasses.replace(_LLAMA, window=4)),
}
LENGTH = 17


def rows():
    """Two documents with a prefix each; padding on the left and a prefix of one; no prefix."""
    segments = np.array([[1] * 9 + [2] * 6 + [0] * 2, [0] * 3 + [1] * 14, [1] * LENGTH], np.int32)
    prefix = np.array([[1] * 6 + [0] * 3 + [1] * 5 + [0] * 3, [0] * 3 + [1] + [0] * 13, [0] * LENGTH], np.int32)
    positions = np.array([[*range(9), *range(6), 0, 0], [0] * 3 + [*range(14)], [*range(LENGTH)]], np.int32)
    tokens = np.random.default_rng(0).integers(0, 37, segments.shape).astype(np.int32)
    return {"tokens": tokens, "positions": positions, "segment_ids": segments, "prefix": prefix}


def written_out(batch, window):
    """Returns bool [B, T, S]: which key a query sees, from the definition."""
    segments, prefix = batch["segment_ids"], batch["prefix"]
    q, k = np.arange(LENGTH)[:, None], np.arange(LENGTH)[None]
    seen = (segments[:, :, None] == segments[:, None]) & (segments[:, None] > 0) & ((k <= q) | (prefix[:, None] == 1))
    return seen if window is None else seen & (abs(q - k) < window)


def their_logits(model, batch, window):
    seen = torch.tensor(written_out(batch, window))[:, None]
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    positions = parity.tensor(batch["positions"])
    return model(parity.tensor(batch["tokens"]), attention_mask=mask, position_ids=positions).logits


@pytest.mark.parametrize("name", few(MODELS, "mistral"))
def test_logits_and_gradients_are_transformers(name):
    family, config = MODELS[name]
    window = getattr(config, "window", None)
    pair = parity.make_pair(family, config)
    batch = rows()
    real = batch["segment_ids"] > 0
    have = pair.apply(batch).logits
    parity.assert_near(have, their_logits(pair.theirs, batch, window), real)
    causal = pair.apply({**batch, "prefix": np.zeros_like(batch["prefix"])}).logits
    assert np.abs(have - causal)[0].max() > 0.1
    np.testing.assert_array_equal(have[1][real[1]], causal[1][real[1]])  # a prefix of one token hides nothing

    weights = parity.weighted_sum(have)[1] * real[:, :, None]
    parity.assert_gradients(
        pair,
        batch,
        lambda out: (out.logits * weights).sum(),
        lambda model: (their_logits(model, batch, window) * torch.tensor(weights)).sum(),
    )
