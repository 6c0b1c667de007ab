"""The causal objective: which token is whose target, and what counts."""

import numpy as np
import pytest
import torch

from tests.data.test_windows import make_store
from tests.interop import parity
from transformer.checks import FieldError
from transformer.data.text.windows import Windows
from transformer.interop.gpt import GPT2
from transformer.models.gpt import GPTConfig
from transformer.objectives.causal_lm import CausalLM

RECORD = {
    "tokens": np.array([1, 10, 11, 2, 1, 20, 0, 0], np.int32),
    "segment_ids": np.array([1, 1, 1, 1, 2, 2, 0, 0], np.int32),
    "positions": np.array([0, 1, 2, 3, 0, 1, 0, 0], np.int32),
}


def test_targets_are_the_next_tokens_of_the_same_document():
    example = CausalLM().example(RECORD, np.random.default_rng(0))
    assert example["inputs"]["tokens"].tolist() == [1, 10, 11, 2, 1, 20, 0]
    assert example["inputs"]["positions"].tolist() == [0, 1, 2, 3, 0, 1, 0]
    assert example["inputs"]["segment_ids"].tolist() == [1, 1, 1, 1, 2, 2, 0]
    assert example["targets"].tolist() == [10, 11, 2, 1, 20, 0, 0]
    assert example["weights"].tolist() == [1, 1, 1, 0, 1, 0, 0]


def test_a_window_of_padding_weighs_nothing():
    empty = {name: np.zeros_like(values) for name, values in RECORD.items()}
    assert CausalLM().example(empty, np.random.default_rng(0))["weights"].sum() == 0


def test_concatenated_documents_have_the_same_targets_and_no_segments():
    separate, concatenated = (
        CausalLM(packing=packing).example(RECORD, np.random.default_rng(0)) for packing in ("separate", "concatenated")
    )
    assert {*concatenated["inputs"]} == {"tokens"}
    for name in ("targets", "weights"):
        np.testing.assert_array_equal(concatenated[name], separate[name])
    np.testing.assert_array_equal(concatenated["inputs"]["tokens"], separate["inputs"]["tokens"])


def test_another_packing_is_refused_by_name():
    with pytest.raises(FieldError, match="unknown packing 'full'; choose from: separate, concatenated"):
        CausalLM(packing="full")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("chunk", [None, 4])
def test_the_loss_of_concatenated_documents_is_a_causal_models_of_the_row(chunk):
    """Transformers' GPT-2 reads a row as one text: no mask, no positions; the last window ends in padding."""
    store = make_store([5, 9, 3, 12, 7])
    windows = Windows(store, 13, overlap=1, drop_remainder=False)
    records = windows.draw_many(np.arange(len(windows)), [])
    assert (records["segment_ids"] == 0).any()
    assert records["segment_ids"].max() > 1
    pair = parity.make_pair(GPT2, GPTConfig(vocab_size=40, context_length=16, width=24, num_layers=2, num_heads=3))
    with torch.no_grad():
        logits = pair.theirs(torch.tensor(records["tokens"][:, :-1], dtype=torch.long)).logits
    targets = torch.tensor(records["tokens"][:, 1:], dtype=torch.long)
    losses_BT = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none").numpy()

    def loss(packing):
        objective = CausalLM(packing=packing, chunk=chunk)
        batch = objective.examples(records, [])
        loss_sum, weight, _ = objective.loss(pair.apply(batch["inputs"]), batch)
        assert weight == len(store.tokens) - 5  # all but the first of each document
        return float(loss_sum), batch["weights"]

    whole, weights_BT = loss("concatenated")
    assert whole == pytest.approx(float((losses_BT * weights_BT).sum()), rel=1e-6)
    assert abs(whole - loss("separate")[0]) > 0.1
