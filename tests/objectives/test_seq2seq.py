"""Pairs in rows: each target is read one token late, and from its own source's segment alone."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from transformer.errors import UserError
from transformer.layers.heads import LanguageModelOutput
from transformer.objectives import Seq2Seq

from .world import setting

ROW = {
    "tokens": [50, 51, 2, 60, 2, 0, 0, 0],
    "segment_ids": [1, 1, 1, 2, 2, 0, 0, 0],
    "positions": [0, 1, 2, 0, 1, 0, 0, 0],
    "target_tokens": [70, 2, 80, 81, 82, 2],
    "target_segment_ids": [1, 1, 2, 2, 2, 2],
    "target_positions": [0, 1, 0, 1, 2, 3],
}
RECORD = {name: np.array(values, np.int32) for name, values in ROW.items()}


def test_targets_are_shifted_right_pair_by_pair():
    example = Seq2Seq().example(RECORD, np.random.default_rng(0), setting(8, 9))
    inputs = example["inputs"]
    assert inputs["tokens"].tolist() == ROW["tokens"]
    assert inputs["segment_ids"].tolist() == ROW["segment_ids"]
    assert inputs["decoder_tokens"].tolist() == [9, 70, 9, 80, 81, 82]
    assert inputs["decoder_positions"].tolist() == ROW["target_positions"]
    assert inputs["decoder_segment_ids"].tolist() == ROW["target_segment_ids"]
    assert example["targets"].tolist() == ROW["target_tokens"]
    assert example["weights"].tolist() == [1] * 6
    assert {array.dtype for array in [*inputs.values(), example["targets"]]} == {np.dtype(np.int32)}


def test_padding_weighs_nothing():
    shorter = {
        name: np.where(values == 2, 0, values) if "segment" in name else values for name, values in RECORD.items()
    }
    example = Seq2Seq().example(shorter, np.random.default_rng(0), setting(8, 9))
    assert example["weights"].tolist() == [1, 1, 0, 0, 0, 0]
    assert example["inputs"]["decoder_tokens"][2:].tolist() == [0] * 4


def test_the_loss_is_smoothed_and_nll_is_not():
    rng = np.random.default_rng(0)
    hidden, kernel = rng.normal(size=(1, 6, 4)), rng.normal(size=(90, 4))
    scores = hidden @ kernel.T
    scores -= np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    batch = {"targets": RECORD["target_tokens"][None], "weights": np.array([[1, 1, 1, 0, 1, 1]], np.float32)}
    outputs = LanguageModelOutput(jnp.asarray(hidden, jnp.float32), jnp.asarray(kernel, jnp.float32))
    loss_sum, weight, metrics = Seq2Seq(chunk=4).loss(outputs, batch)
    nll = -np.take_along_axis(scores, batch["targets"][..., None], axis=-1)[..., 0]
    assert float(weight) == 5
    assert float(metrics["nll"]) == pytest.approx((nll * batch["weights"]).sum(), rel=1e-5)
    smoothed = 0.9 * nll - 0.1 * scores.mean(axis=-1)
    assert float(loss_sum) == pytest.approx((smoothed * batch["weights"]).sum(), rel=1e-5)


def test_lengths():
    assert Seq2Seq().target_length(64) == 64
    reading = Seq2Seq(target_len=32, begin=True).reading(64)
    assert dataclasses.astuple(reading) == (64, 32, True)
    with pytest.raises(UserError, match="target_len is 0"):
        Seq2Seq(target_len=0)
