import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.data.generators import generators


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
