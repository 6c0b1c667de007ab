import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.data.records import JoinedRecords
from transformer.data.text.store import FORMAT_VERSION, StoreMeta, TokenStore
from transformer.data.text.windows import Windows
from transformer.errors import UserError


def make_store(lengths):
    """Documents of these lengths whose tokens count up from 1 over the whole stream."""
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    total = int(offsets[-1])
    meta = StoreMeta(FORMAT_VERSION, "test", "c", "train", "t", "uint16", len(lengths), total, total, None, None, None)
    return TokenStore(np.arange(1, total + 1, dtype=np.uint16), offsets, meta)


stores = st.lists(st.integers(2, 40), min_size=1, max_size=30).map(make_store)


@settings(max_examples=100, deadline=None)
@given(stores, st.integers(1, 50))
def test_every_token_but_the_first_is_a_target_exactly_once(store, seq_len):
    windows = Windows(store, seq_len + 1, overlap=1, drop_remainder=False)
    targets = [w["tokens"][1:][w["segment_ids"][1:] > 0] for w in (windows[i] for i in range(len(windows)))]
    np.testing.assert_array_equal(np.concatenate(targets), store.tokens[1:])


@settings(max_examples=100, deadline=None)
@given(stores, st.integers(1, 50))
def test_segments_and_positions_are_what_a_loop_says(store, seq_len):
    windows = Windows(store, seq_len + 1, overlap=1, drop_remainder=False)
    document_of = np.repeat(np.arange(len(store.offsets) - 1), np.diff(store.offsets))
    for index in range(len(windows)):
        window = windows[index]
        segment, position, previous = 0, 0, None
        for slot in range(seq_len + 1):
            at = index * seq_len + slot
            if at >= len(store.tokens):
                expected = (0, 0, 0)
            else:
                is_new = document_of[at] != previous
                segment, position = (segment + 1, 0) if is_new else (segment, position + 1)
                previous = document_of[at]
                expected = (store.tokens[at], segment, position)
            assert tuple(window[name][slot] for name in ("tokens", "segment_ids", "positions")) == expected
        assert {value.dtype for value in window.values()} == {np.dtype(np.int32)}


@settings(max_examples=50, deadline=None)
@given(stores, st.integers(1, 50))
def test_training_windows_are_the_full_ones(store, seq_len):
    if len(store.tokens) <= seq_len:
        with pytest.raises(UserError, match=f"has {len(store.tokens)} tokens.*--train.seq-len to at most"):
            Windows(store, seq_len + 1, overlap=1, drop_remainder=True)
        return
    windows = Windows(store, seq_len + 1, overlap=1, drop_remainder=True)
    assert len(windows) == (len(store.tokens) - 1) // seq_len
    assert all(windows[i]["segment_ids"].min() > 0 for i in range(len(windows)))


def test_joined_windows_follow_each_other():
    parts = [Windows(make_store([n]), 5, overlap=1, drop_remainder=False) for n in (9, 3, 20)]
    joined = JoinedRecords(parts)
    expected = [part[i]["tokens"] for part in parts for i in range(len(part))]
    np.testing.assert_array_equal([joined[i]["tokens"] for i in range(len(joined))], expected)
    with pytest.raises(IndexError):
        joined[len(joined)]
