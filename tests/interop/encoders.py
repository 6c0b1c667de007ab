"""What the encoders' tests share: pairs of models, a batch for every head, three tests, a pretraining loss."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.exhaustive import few
from transformer.ops.cross_entropy import cross_entropy

from . import parity

LENGTH = 13


def rows(config: Any, length: int = LENGTH) -> dict[str, np.ndarray]:
    """Returns the rows of `parity.rows`, of two sentences each where the family has token types."""
    batch = parity.rows(config, length, low=2)  # RoBERTa's padding, 1, has no gradient over there
    if getattr(config, "num_token_types", 1) > 1:
        kinds = np.arange(length, dtype=np.int32) * config.num_token_types // length
        batch["token_types"] = np.tile(kinds, (3, 1))
    return batch


def their_scores(pair: parity.Pair, batch: dict[str, np.ndarray], model: Any = None) -> list[torch.Tensor]:
    """Returns the outputs of Transformers' model: [B, T, ...] for tokens, then [B, ...] for rows, if there are any."""
    first = getattr(pair.config, "first_position", 0)
    inputs = {
        "input_ids": parity.tensor(batch["tokens"]),
        "attention_mask": parity.tensor(batch["segment_ids"]),
        "position_ids": parity.tensor(batch["positions"] + first),
    }
    if "token_types" in batch:
        inputs["token_type_ids"] = parity.tensor(batch["token_types"])
    if pair.config.head == "multiple_choice":  # the rows as the choices of one example
        flat = {"position_ids"} if pair.config.family == "distilbert" else set()  # it does not flatten these
        inputs = {name: array if name in flat else array[None] for name, array in inputs.items()}
    out = (model or pair.theirs)(**inputs)
    if "start_logits" in out:
        return [torch.stack([out.start_logits, out.end_logits], dim=-1)]
    tokens, pairs = ("prediction_logits", "logits", "last_hidden_state"), ("seq_relationship_logits", "sop_logits")
    found = [out[name] for name in (*tokens, *pairs, "pooler_output") if name in out]
    return [found[0].T] if pair.config.head == "multiple_choice" else found


def make_pair(family: Any, shape: Any, head: str) -> parity.Pair:
    """Returns both sides of a shape under a head, of three classes where the head has classes."""
    labels = 3 if head in ("sequence_classification", "token_classification") else 2

    def without_unread_bias(model):
        """In an untied head, Transformers reads the decoder's own bias alone, and we keep no other."""
        names = {name for name, _ in model.named_parameters()}
        for name, parameter in model.named_parameters():
            if not shape.tie_embeddings and name.endswith(("predictions.bias", "lm_head.bias")):
                assert name.removesuffix("bias") + "decoder.bias" in names
                parameter.data.zero_()

    config = dataclasses.replace(shape, head=head, num_labels=labels)
    return parity.make_pair(family, config, change=without_unread_bias)


def pairs(family: Any, cases: dict[str, Any], *kept: str) -> Any:
    """Returns the fixture `pair` of a family's cases, named "HEAD" or "HEAD, what differs", with their shapes.

    All but `kept` are exhaustive.
    """

    @pytest.fixture(params=few(cases, *kept), scope="module")
    def pair(request):
        return make_pair(family, cases[request.param], request.param.split(",")[0])

    return pair


def test_scores_are_transformers(pair):
    assert_scores(pair)


def test_there_and_back_is_exact(pair):
    parity.assert_there_and_back(pair)


def test_transformers_loads_what_is_written(pair, tmp_path):
    assert_reloads(pair, tmp_path / "out")


def our_scores(out: Any, config: Any) -> list[jax.Array]:
    """Returns our model's outputs, likewise."""
    if config.head in ("none", "unpooled"):
        return [out.hidden_BTD, *([] if out.pooled_BD is None else [out.pooled_BD])]
    sentence = getattr(out, "sentence_B2", None)
    return [out.logits, *([] if sentence is None else [sentence])]


def assert_scores(pair: parity.Pair, batch: dict[str, np.ndarray] | None = None) -> None:
    """Asserts equal outputs: of real tokens, and of rows that begin with one."""
    batch = rows(pair.config) if batch is None else batch
    real = batch["segment_ids"] > 0
    have, want = our_scores(pair.apply(batch), pair.config), their_scores(pair, batch)
    assert len(have) == len(want)
    for ours, theirs in zip(have, want, strict=True):
        parity.assert_near(ours, theirs, real if ours.ndim == 3 else real[:, 0])


def assert_reloads(pair: parity.Pair, folder: Any) -> None:
    """Asserts that Transformers loads what is written."""
    batch = rows(pair.config, 7)
    parity.assert_reloads(pair, folder, lambda model: their_scores(pair, batch, model)[-1])


def assert_pretraining_gradients(pair: parity.Pair) -> None:
    """Asserts equal gradients of the mean loss over some masked words, and the sentences' where the head has them."""
    batch = rows(pair.config)
    places = np.array([[0, 4, 9], [3, 12, 5], [1, 2, 8]], np.int32)  # real ones
    rng = np.random.default_rng(2)
    targets = rng.integers(0, pair.config.vocab_size, places.shape).astype(np.int32)
    sentences, real = np.array([0, 1, 1], np.int32), (batch["segment_ids"][:, 0] > 0).astype(np.float32)

    def loss(out):
        words, weight, _ = cross_entropy(
            out.hidden_BTD, out.unembedding_VD, targets, np.ones(places.shape, np.float32), bias=out.bias_V
        )
        if pair.config.head != "pretraining":
            return words / weight
        logs_B2 = jax.nn.log_softmax(out.sentence_B2)
        nll_B = -jnp.take_along_axis(logs_B2, sentences[:, None], axis=1)[:, 0]
        return words / weight + (nll_B * real).sum()

    def their_loss(model):
        del model
        scores = their_scores(pair, batch)
        nll = functools.partial(torch.nn.functional.cross_entropy, reduction="none")
        picked = scores[0][torch.arange(3)[:, None], parity.tensor(places)]
        words = nll(picked.flatten(0, 1), parity.tensor(targets).flatten()).mean()
        if pair.config.head != "pretraining":
            return words
        return words + (nll(scores[1], parity.tensor(sentences)) * torch.tensor(real)).sum()

    parity.assert_gradients(pair, {**batch, "masked_positions": places}, loss, their_loss)
