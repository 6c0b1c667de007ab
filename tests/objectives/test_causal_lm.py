"""The causal objective: which token is whose target, and what counts."""

import numpy as np

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
