import grain
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.data.generators import generators
from transformer.data.pipeline import _shuffled


@given(
    st.lists(st.integers(0, 2**32 - 1) | st.sampled_from([2**32, 2**40]), min_size=9, max_size=12),
    st.lists(st.integers(0, 2**32 - 1) | st.just(2**33), max_size=6),
)
def test_generators_are_those_of_numpy(places, words):
    made = generators(*words, np.array(places), *words[:2])
    for place, rng in zip(places, made, strict=True):
        expected = np.random.default_rng((*words, place, *words[:2]))
        assert rng.bit_generator.state == expected.bit_generator.state
        np.testing.assert_array_equal(rng.random(3), expected.random(3))


@pytest.mark.parametrize("count", [0, 1, 7, 8])
def test_few_generators(count):
    made = generators(5, np.arange(count))
    assert [rng.random() for rng in made] == [np.random.default_rng((5, n)).random() for n in range(count)]


@given(st.integers(1, 2**40), st.integers(0, 2**40), st.integers(0, 2**33))
def test_the_shuffle_is_that_of_grain(length, index, seed):
    if length.bit_count() > 1 or length == 1 or (length - 1).bit_count() > 1:
        shuffled = grain.MapDataset.range(length).shuffle(seed=seed % 2**32)
        assert _shuffled(index % length, length, seed) == shuffled[index % length]


@pytest.mark.parametrize("length", [1, 2, 65_536, 65_537, 131_073])
def test_the_shuffle_gives_each_number_once(length):
    found = np.array([_shuffled(index, length, 5) for index in range(length)])
    np.testing.assert_array_equal(np.sort(found), np.arange(length))


@pytest.mark.parametrize("length", [2**32, 2**32 + 1, 2**33 + 12_345, 10**12])
def test_the_shuffle_of_more_than_32_bits_spreads_and_collides_nowhere(length):
    edges = [0, 1, 2**32 - 1, 2**32, length // 2, length - 2, length - 1]
    places = sorted({*(edge for edge in edges if edge < length), *range(0, length, length // 4000)})
    found = np.array([_shuffled(place, length, 9) for place in places])
    assert len(np.unique(found)) == len(places)
    assert found.min() >= 0
    assert found.max() < length
    times, _ = np.histogram(found, bins=8, range=(0, length))
    assert abs(times - len(places) / 8).max() < 5 * np.sqrt(len(places) / 8)
