"""Spans and n-grams to hide: their lengths are the papers', they are whole words, and no row has too many."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.objectives import MaskedLM, masking, span_masking

from .world import FIRST, MASK, STORE, WORDS, chosen, examples, original


def test_span_lengths_are_spanberts():
    """Joshi et al. 2020, figure 2: geometric with p = 0.2, at most 10 words, a mean of 3.8."""
    shares = span_masking.SPANBERT
    np.testing.assert_allclose(shares[1:] / shares[:-1], 0.8)
    assert shares @ np.arange(1, 11) == pytest.approx(3.797, abs=1e-3)
    # Drawn: one word a token, so that no span is cut but the last of a row.
    maskable = np.ones(4000, bool)
    maskable[[0, -1]] = False
    lengths = []
    for seed in range(60):
        spans = span_masking.choose_spans(maskable, maskable, 600, shares, np.random.default_rng(seed))
        assert (spans[1:, 0] > spans[:-1, 1]).all()
        assert (spans[:, 1] - spans[:, 0]).sum() == 600
        lengths += (spans[:, 1] - spans[:, 0]).tolist()
    assert max(lengths) == 10
    assert np.mean(lengths) == pytest.approx(3.797, rel=0.025)
    assert np.mean(np.array(lengths) == 1) == pytest.approx(shares[0], abs=0.01)


def test_ngrams_are_alberts():
    """Lan et al. 2020, section 4.1: up to three words, in proportion to 1/n; each token has a fate of its own."""
    np.testing.assert_allclose(span_masking.ALBERT * np.arange(1, 4), 6 / 11)
    maskable = np.ones(4000, bool)
    spans = np.concatenate(
        [
            span_masking.choose_spans(maskable, maskable, 600, span_masking.ALBERT, np.random.default_rng(seed))
            for seed in range(40)
        ]
    )
    shares = np.bincount(spans[:, 1] - spans[:, 0], minlength=4)[1:] / len(spans)
    np.testing.assert_allclose(shares, span_masking.ALBERT, atol=0.012)
    mixed = 0
    for example in examples(MaskedLM(choose="ngrams"), 128, STORE, 60):
        tokens, places = original(example), chosen(example)
        fates = [kind(example["inputs"]["tokens"][i], tokens[i]) for i in places]
        mixed += sum(a != b for a, b, near in zip(fates, fates[1:], np.diff(places) == 1, strict=False) if near)
    assert mixed > 60


def test_spans_are_words_with_seen_tokens_around_them():
    words, cut = [], 0
    for example in examples(MaskedLM(choose="spans", boundary=True), 256, STORE, 200):
        inputs, tokens, used = example["inputs"], original(example), example["weights"] > 0
        places, left, right, offset = (
            inputs[name][used] for name in ("masked_positions", "boundary_left", "boundary_right", "boundary_offset")
        )
        np.testing.assert_array_equal(places - offset - 1, left)
        hidden = set(places.tolist())
        assert not hidden & set(left.tolist() + right.tolist())
        assert offset.max() < span_masking.MAX_TOKENS
        for start, stop in {(int(a) + 1, int(b)) for a, b in zip(left, right, strict=True)}:
            assert hidden.issuperset(range(start, stop))
            assert len({int(inputs["segment_ids"][i]) for i in range(start - 1, stop + 1)}) == 1
            assert tokens[start] < WORDS or tokens[start - 1] < FIRST  # begins with a word
            cut += bool(tokens[stop] >= WORDS)
            words.append(int((tokens[start:stop] < WORDS).sum()))
            fates = {kind(inputs["tokens"][i], tokens[i]) for i in range(start, stop)}
            assert len(fates) == 1
    assert cut <= 200  # at most the one span a row that the budget cuts
    assert 3.2 < np.mean(words) < 3.9


def kind(shown, truth):
    return "mask" if shown == MASK else "kept" if shown == truth else "random"


@given(st.integers(8, 40), st.integers(1, 40), st.integers(0, 1000), st.floats(0.1, 1.0))
def test_any_row_has_no_more_than_its_budget(length, count, seed, share):
    rng = np.random.default_rng(seed)
    maskable = rng.random(length) < 0.8
    maskable[[0, -1]] = False
    starts = maskable & ((rng.random(length) < share) | ~np.roll(maskable, 1))
    places = masking.choose_words(maskable, starts, count, rng)
    assert len(places) <= count
    assert maskable[places].all()
    spans = span_masking.choose_spans(maskable, starts, count, span_masking.SPANBERT, rng)
    places, number = span_masking.places_of(spans)
    assert len(places) == len(set(places.tolist())) <= count
    assert maskable[places].all()
    assert starts[spans[:, 0]].all()
    np.testing.assert_array_equal(spans[number, 0] <= places, True)
