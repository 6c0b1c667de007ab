import grain
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.data.shuffle import Shuffle


@given(st.integers(1, 2**40), st.integers(0, 2**40), st.integers(0, 2**33))
def test_the_shuffle_is_that_of_grain(length, index, seed):
    if length.bit_count() > 1 or length == 1 or (length - 1).bit_count() > 1:
        shuffled = grain.MapDataset.range(length).shuffle(seed=seed % 2**32)
        place, seed = index % length, seed % 2**32
        assert Shuffle(length, seed)(place, 0) == shuffled[place]
        assert Shuffle(length, seed)(place, 3) == shuffled[place + 3 * length] % length


@pytest.mark.parametrize("length", [1, 2, 65_536, 65_537, 131_073])
def test_the_shuffle_gives_each_number_once(length):
    shuffle = Shuffle(length, 5)
    found = np.array([shuffle(place, 1) for place in range(length)])
    np.testing.assert_array_equal(np.sort(found), np.arange(length))


@pytest.mark.parametrize("length", [2**32, 2**32 + 1, 2**33 + 12_345, 10**12])
def test_the_shuffle_of_more_than_32_bits_spreads_and_collides_nowhere(length):
    edges = [0, 1, 2**32 - 1, 2**32, length // 2, length - 2, length - 1]
    places = sorted({*(edge for edge in edges if edge < length), *range(0, length, length // 4000)})
    shuffle = Shuffle(length, 9)
    found = np.array([shuffle(place, 0) for place in places])
    assert len(np.unique(found)) == len(places)
    assert found.min() >= 0
    assert found.max() < length
    times, _ = np.histogram(found, bins=8, range=(0, length))
    assert abs(times - len(places) / 8).max() < 5 * np.sqrt(len(places) / 8)
