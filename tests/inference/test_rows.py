"""Batches hold everything once, share a program, and read few rows for nothing."""

import pytest

from transformer.inference.rows import batches, even


@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_batches_are_as_few_and_as_even_as_can_be(most):
    for number in range(1, 40):
        made = [(list(chosen), filled) for chosen, filled in batches(range(number), most)]
        assert [item for chosen, _ in made for item in chosen] == list(range(number))
        assert all(filled[: len(chosen)] == chosen and set(filled) == set(chosen) for chosen, filled in made)
        fewest = -(-number // most)
        assert len(made) == fewest
        # The least equal size of so many batches that holds all.
        size = min(rows for rows in range(1, most + 1) if rows * fewest >= number)
        assert {len(filled) for _, filled in made} == {size}


def test_ten_items_in_eights_are_two_fives():
    assert [len(filled) for _, filled in batches(range(10), 8)] == [5, 5]


def test_nothing_is_no_batch():
    assert list(batches([], 8)) == []
    assert even(0, 8) == 1
