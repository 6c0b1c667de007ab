import math
from fractions import Fraction

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.data.pipeline import origins, train_batches
from transformer.data.selection import Selection

from .test_pipeline import make_example, make_windows

# Of any ratio: as a person types them, and as arithmetic leaves them.
weights = st.lists(
    st.one_of(st.floats(1e-6, 1.0), st.integers(1, 10**6), st.sampled_from([1e-6, 1.0, 1.999, 0.1, 0.3, 1 / 3])),
    min_size=1,
    max_size=12,
)


def exact(values):
    fractions = [Fraction(repr(float(value))) for value in values]
    return [fraction / sum(fractions) for fraction in fractions]


def bounds(values):
    """How far a count can lie below and above its share, from the rounding of each cut in turn."""
    shares, left, found = exact(values), Fraction(1), []
    above = Fraction(0)  # how much less than their share the corpora from here on can have got
    for share in shares:
        found.append((above * share / left, 1))
        rest = left - share
        above = above * rest / left + 1
        left = rest
    return found


@given(weights, st.integers(0, 200) | st.integers(0, 10**15))
def test_counts_keep_to_the_shares_for_every_prefix(values, start):
    selection, length = Selection(values), 60
    corpora, numbers = selection.select(np.arange(start, start + length))
    for number, (share, (below, above)) in enumerate(zip(exact(values), bounds(values), strict=True)):
        assert below <= number
        mine = corpora == number
        # The inverse: the samples of a corpus are its own, one after the other.
        if mine.any():
            first = int(numbers[mine][0])
            np.testing.assert_array_equal(numbers[mine], first + np.arange(mine.sum()))
            counts = first + np.concatenate(([0], np.cumsum(mine)))
            for place, count in enumerate(counts.tolist(), start):
                assert -below <= count - place * share < above


@given(weights)
def test_every_sample_of_every_corpus_comes_once(values):
    corpora, numbers = Selection(values).select(np.arange(500))
    for number in range(len(values)):
        np.testing.assert_array_equal(numbers[corpora == number], np.arange((corpora == number).sum()))


@given(weights, st.lists(st.integers(0, 10**17), min_size=1, max_size=9))
def test_any_place_is_found_at_once(values, places):
    selection = Selection(values)
    together = selection.select(np.array(places))
    for row, place in enumerate(places):
        alone = selection.select(np.array([place]))
        assert [int(found[row]) for found in together] == [int(found[0]) for found in alone]


@pytest.mark.parametrize(
    ("values", "asked"), [((1.0, 1.999), 1 / 2.999), ((0.7, 0.3), 0.7), ((0.001, 1.0, 0.5), 0.001 / 1.501)]
)
def test_the_proportions_are_those_that_were_asked_for(values, asked):
    length = 10**6
    corpora, _ = Selection(values).select(np.arange(length))
    assert abs((corpora == 0).sum() - length * asked) <= 1


def test_two_corpora_of_very_different_weights():
    selection = Selection([1e-6, 1.0])
    places = np.array([0, 1, 10**6, 10**6 + 1, 2 * 10**6 + 1, 2 * 10**6 + 2])
    corpora, numbers = selection.select(places)
    assert corpora.tolist() == [0, 1, 1, 0, 1, 0]
    assert numbers.tolist() == [0, 0, 10**6 - 1, 1, 2 * 10**6 - 1, 2]


@settings(max_examples=20)
@given(st.lists(st.integers(100, 900), min_size=1, max_size=5), st.integers(0, 10**12))
def test_exact_hundredths_are_mixed_as_grain_mixes_them(hundredths, place):
    """So a run that began with such weights goes on with the samples that it would have had."""
    values = [1.0, *(n / 100 for n in hundredths)]
    mixed = grain.MapDataset.mix(
        [
            grain.MapDataset.range(10**9).repeat().map_with_index(lambda index, _, k=k: (k, index))
            for k in range(len(values))
        ],
        values,
    )
    if [math.floor(value * 100) for value in values] == [100, *hundredths]:  # as Grain rounds them
        corpora, numbers = Selection(values).select(np.arange(place, place + 40))
        assert [mixed[place + n] for n in range(40)] == list(zip(corpora.tolist(), numbers.tolist(), strict=True))


@given(weights.filter(lambda values: len(values) < 5), st.integers(0, 10**12), st.integers(0, 3))
def test_origins_agree_with_the_batches(values, step, seed):
    windows = [make_windows(45 + 40 * n) for n in range(len(values))]
    batch = train_batches(windows, values, example=make_example, batch_size=8, seed=seed)[step]
    found = origins(windows, values, seed=seed, batch_size=8)
    for row in range(8):
        corpus, record, _ = found[step * 8 + row]
        np.testing.assert_array_equal(batch["targets"][row], windows[corpus][record]["tokens"][1:])
