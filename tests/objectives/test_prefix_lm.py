"""Prefix language modelling: where documents are cut, what is seen from both sides, and what counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.objectives import CausalLM, PrefixLM

from .world import examples, make_store, records

LENGTHS = [int(n) for n in np.random.default_rng(3).integers(1, 90, 400)]
STORE = make_store(LENGTHS)


def record(*lengths, padding=0):
    """A window of documents of so many tokens."""
    numbers = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    places = np.concatenate([np.arange(length) for length in lengths])
    pad = np.zeros(padding, int)
    return {
        "tokens": np.arange(100, 100 + len(numbers) + padding, dtype=np.int32),
        "segment_ids": np.concatenate((numbers, pad)).astype(np.int32),
        "positions": np.concatenate((places, pad)).astype(np.int32),
    }


def test_a_window_by_hand():
    """Two documents, cut after three tokens and after one, and padding; the last token is a target only."""

    class Cuts:
        def random(self, count):
            assert count == 3
            return np.array([0.9, 0.5, 0.0])  # of padding; 0.5 * (6 - 1) = 2 tokens more than one; none

    example = PrefixLM().example(record(6, 3, padding=1), Cuts())  # type: ignore[arg-type]
    assert example["inputs"]["tokens"].tolist() == [100, 101, 102, 103, 104, 105, 106, 107, 108]
    assert example["targets"].tolist() == [101, 102, 103, 104, 105, 106, 107, 108, 109]
    assert example["inputs"]["segment_ids"].tolist() == [1, 1, 1, 1, 1, 1, 2, 2, 2]
    assert example["inputs"]["prefix"].tolist() == [1, 1, 1, 0, 0, 0, 1, 0, 0]
    assert example["weights"].tolist() == [0, 0, 1, 1, 1, 0, 1, 1, 0]
    assert example["inputs"]["prefix"].dtype == np.int32
    assert example["weights"].dtype == np.float32


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 5), st.integers(0, 99))
def test_every_document_has_a_prefix_and_all_tokens_after_it_are_targets(lengths, padding, seed):
    window = record(*lengths, padding=padding)
    if len(window["tokens"]) < 2:
        return
    example = PrefixLM().example(window, np.random.default_rng(seed))
    causal = CausalLM().example(window, np.random.default_rng(seed))
    prefix, weights = example["inputs"].pop("prefix"), example["weights"]
    for name, array in causal["inputs"].items():
        np.testing.assert_array_equal(example["inputs"][name], array)
    np.testing.assert_array_equal(example["targets"], causal["targets"])
    segments = window["segment_ids"]
    for number, length in enumerate(lengths, start=1):
        here = np.flatnonzero(segments == number)
        if length == 1:  # nothing follows it
            assert not weights[here[here < len(weights)]].any()
            continue
        first, cut = here[0], int(prefix[here[:-1]].sum())
        assert 1 <= cut <= length - 1
        assert prefix[first : first + cut].all()
        # From the prefix's last token on, each says the next; the document's last says nothing.
        assert not weights[first : first + cut - 1].any()
        assert weights[first + cut - 1 : first + length - 1].all()
    assert not weights[segments[1:] == 0].any()
    assert not prefix[segments[:-1] == 0].any()
    assert weights.sum() <= causal["weights"].sum()


def test_all_places_to_cut_are_as_likely():
    """A prefix of 11 tokens has 1 to 10: 16,000 draws leave each within 2.4 %, one standard error; five are 12 %."""
    window = record(11)
    rng = np.random.default_rng(0)
    cuts = np.array([PrefixLM().example(window, rng)["inputs"]["prefix"].sum() for _ in range(16_000)])
    found = np.bincount(cuts, minlength=12) / len(cuts)
    assert found[0] == found[11] == 0
    np.testing.assert_allclose(found[1:11], 0.1, rtol=0.1)
    assert cuts.mean() == pytest.approx(5.5, rel=0.012)


def test_half_of_the_tokens_are_targets():
    """A part of n tokens has n / 2 targets on average, where causal language modelling has n - 1."""
    found = np.sum([example["weights"].sum() for example in examples(PrefixLM(), 64, STORE, 6000)])
    cut = records(PrefixLM(), 64, STORE)
    want = 0.0
    for number in range(len(cut)):
        lengths = np.bincount(cut[number]["segment_ids"])[1:]
        want += lengths[lengths > 1].sum() / 2 * (6000 // len(cut) + (number < 6000 % len(cut)))
    assert found == pytest.approx(want, rel=0.012)


def test_each_window_is_causal_lms_and_depends_on_the_generator_alone():
    assert PrefixLM().reading(64) == CausalLM().reading(64)
    one, other = (examples(PrefixLM(), 64, STORE, 20, seed=seed) for seed in (0, 1))
    again = examples(PrefixLM(), 64, STORE, 20)
    for a, b, c in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(a["inputs"]["prefix"], b["inputs"]["prefix"])
        np.testing.assert_array_equal(a["inputs"]["tokens"], c["inputs"]["tokens"])
    assert any((a["weights"] != c["weights"]).any() for a, c in zip(one, other, strict=True))


def test_a_window_of_padding_weighs_nothing():
    empty = {name: np.zeros_like(values) for name, values in record(8).items()}
    example = PrefixLM().example(empty, np.random.default_rng(0))
    assert example["weights"].sum() == example["inputs"]["prefix"].sum() == 0
    assert example["inputs"]["prefix"].shape == (7,)
