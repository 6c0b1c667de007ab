"""Batches of like lengths: each sample once, the same whoever asks, narrow, and independent of hosts."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from transformer.data.grouping import WINDOW, Grouping, width_of
from transformer.data.pipeline import eval_batches, origins, train_batches
from transformer.data.records import LengthRecords

MOST = 256


class Ramp(LengthRecords):
    """Records of ones, as many as each is long."""

    def __init__(self, lengths):
        self.lengths = np.asarray(lengths)

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, index):
        row = np.zeros(MOST, np.int32)
        row[: self.lengths[index]] = 1
        return {"tokens": row, "number": np.asarray(index)}


class Make:
    most = MOST

    def __call__(self, record, rng):
        return {"inputs": {"tokens": record["tokens"]}, "number": record["number"]}

    def cut(self, batch, width):
        return batch | {"inputs": {"tokens": batch["inputs"]["tokens"][:, :width]}}


RECORDS = Ramp(np.random.default_rng(0).integers(1, MOST + 1, size=1000))


def batches(rows=None, batch_size=8):
    return train_batches([RECORDS], [1.0], example=Make(), batch_size=batch_size, seed=3, rows=rows)


@given(st.integers(1, 512), st.integers(1, 512))
def test_widths_are_few_and_hold_the_longest(longest, most):
    longest = min(longest, most)
    assert longest <= width_of(longest, most) <= most
    assert len({width_of(length, most) for length in range(1, most + 1)}) <= 4


@given(st.integers(0, 5), st.integers(1, 9))
def test_a_window_holds_the_samples_that_it_would_hold_without(window, batch_size):
    size = WINDOW * batch_size
    places = np.arange(window * size, (window + 1) * size)
    grouping = Grouping(lambda places: places * 7919 % 101, batch_size, 5)
    assert sorted(grouping(places)) == places.tolist()
    assert grouping(places[::-1]).tolist() == grouping(places)[::-1].tolist()


def test_each_record_is_read_as_often_as_any_other():
    numbers = np.concatenate([batches()[step]["number"] for step in range(250)])  # two epochs, five windows
    assert sorted(numbers) == sorted([*range(1000)] * 2)
    found = [origins([RECORDS], [1.0], seed=3, batch_size=8)[place].record for place in range(200)]
    assert found == numbers[:200].tolist()


def test_batches_are_narrow_and_lose_nothing():
    part, padded, whole = 0, 0, 0
    for step in range(50):
        batch = batches()[step]
        tokens = batch["inputs"]["tokens"]
        assert tokens.sum() == RECORDS.lengths[batch["number"]].sum()
        part, padded, whole = part + tokens.sum(), padded + tokens.size, whole + len(tokens) * MOST
    assert part / padded > 0.75 > 0.6 > part / whole


@given(st.sets(st.integers(0, 7), min_size=1), st.integers(0, 400))
def test_a_host_has_its_rows_at_the_width_of_all(rows, step):
    rows = sorted(rows)
    own, everyone = batches(rows)[step], batches()[step]
    np.testing.assert_array_equal(own["inputs"]["tokens"], everyone["inputs"]["tokens"][rows])


def test_evaluation_keeps_the_order_and_is_as_wide_as_each_batch_needs():
    found = eval_batches(RECORDS, example=Make(), batch_size=8)
    assert np.concatenate([found[i]["number"] for i in range(125)]).tolist() == list(range(1000))
    for i in range(125):
        tokens = found[i]["inputs"]["tokens"]
        assert tokens.shape[1] == width_of(RECORDS.lengths[8 * i : 8 * i + 8].max(), MOST)
