"""The other ways to cut a token store, besides windows of packed documents."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.data.pairs.rows import PairReading, PairRows
from transformer.data.records import JoinedRecords
from transformer.data.text.document_parts import DocumentParts
from transformer.data.text.windows import TextWindows
from transformer.errors import UserError

from .test_windows import make_store

lengths = st.lists(st.integers(3, 40), min_size=1, max_size=30)


def text_of(store):
    """Each document's tokens, without the first and the last."""
    return [store.tokens[a + 1 : b - 1] for a, b in zip(store.offsets[:-1], store.offsets[1:], strict=True)]


@given(lengths.map(make_store), st.integers(1, 50))
def test_text_windows_are_the_text_end_to_end(store, length):
    windows = TextWindows(store, length, drop_remainder=False)
    found = [windows[i] for i in range(len(windows))]
    text = np.concatenate([w["tokens"][w["segment_ids"] > 0] for w in found])
    np.testing.assert_array_equal(text, np.concatenate(text_of(store)))
    assert all((w["segment_ids"] > 0).all() for w in found[:-1])
    assert {value.dtype for value in found[-1].values()} == {np.dtype(np.int32)}
    if len(text) >= length:
        full = TextWindows(store, length, drop_remainder=True)
        assert len(full) == len(text) // length
        np.testing.assert_array_equal(full[len(full) - 1]["tokens"], found[len(full) - 1]["tokens"])
    else:
        with pytest.raises(UserError, match=f"has {len(text)} tokens, fewer than one window of {length}"):
            TextWindows(store, length, drop_remainder=True)


@given(lengths.map(make_store), st.integers(8, 50))
def test_document_parts_are_all_text_but_short_tails(store, length):
    expected = [
        text[i : i + length] for text in text_of(store) for i in range(0, len(text), length) if len(text) - i >= 8
    ]
    if not expected:
        with pytest.raises(UserError, match=r"0 part\(s\) of a document"):
            DocumentParts(store, length, others=False)
        return
    parts = DocumentParts(store, length, others=False)
    assert len(parts) == len(expected)
    for index, text in enumerate(expected):
        part = parts[index]
        np.testing.assert_array_equal(part["tokens"][part["segment_ids"] > 0], text)
        assert (part["segment_ids"] > 0).sum() == len(text)


def test_another_document_is_each_other_part_as_often():
    store = make_store([42, 12, 90, 22])  # 2 + 1 + 4 + 1 parts of 20, and a tail of 8
    parts = DocumentParts(store, 20, others=True)
    document = [0, 0, 1, 2, 2, 2, 2, 2, 3]
    assert len(parts) == len(document)
    times = np.zeros((9, 9))
    rng = np.random.default_rng(0)
    for index in range(9):
        for _ in range(400):
            record = parts.draw(index, rng)
            np.testing.assert_array_equal(record["tokens"], parts[index]["tokens"])
            [other] = [i for i in range(9) if np.array_equal(parts[i]["tokens"], record["other_tokens"])]
            times[index, other] += 1
    for index in range(9):
        elsewhere = [document[other] != document[index] for other in range(9)]
        assert (times[index] > 0).tolist() == elsewhere
        np.testing.assert_allclose(times[index][elsewhere] / 400, 1 / sum(elsewhere), atol=0.11)


def test_a_single_document_lends_its_other_parts():
    parts = DocumentParts(make_store([62]), 20, others=True)
    found = {int(parts.draw(1, np.random.default_rng(seed))["other_tokens"][0]) for seed in range(40)}
    assert found == {int(parts[0]["tokens"][0]), int(parts[2]["tokens"][0])}
    with pytest.raises(UserError, match="this objective needs 2"):
        DocumentParts(make_store([22]), 20, others=True)


def make_pairs(pairs):
    """Sources count up from 1, targets from 1001, so that a text says which pair it is of."""
    sources, targets = (make_store([2 + pair[side] for pair in pairs]) for side in (0, 1))
    targets.tokens[:] += 1000
    return sources, targets


pair_lengths = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=60)


@given(pair_lengths, st.booleans())
def test_every_pair_is_in_one_row_whole(pairs, begin):
    sources, targets = make_pairs(pairs)
    rows = PairRows(sources, targets, PairReading(16, target_length=20, begin=begin))
    found, empty = {}, 0
    for index in range(len(rows)):
        row = rows[index]
        assert {name: value.shape for name, value in row.items() if "tokens" in name} == {
            "tokens": (16,),
            "target_tokens": (20,),
        }
        for segment in range(1, row["segment_ids"].max() + 1):
            source, target = row["segment_ids"] == segment, row["target_segment_ids"] == segment
            np.testing.assert_array_equal(row["positions"][source], np.arange(source.sum()))
            np.testing.assert_array_equal(row["target_positions"][target], np.arange(target.sum()))
            found[tuple(row["tokens"][source])] = tuple(row["target_tokens"][target])
        assert row["segment_ids"].max() == row["target_segment_ids"].max() > 0
        empty += int((row["segment_ids"] == 0).sum() + (row["target_segment_ids"] == 0).sum())
    assert rows.padding == pytest.approx(empty / (len(rows) * (16 + 20)))
    expected = {}
    for number in range(len(pairs)):
        texts = [store.tokens[store.offsets[number] : store.offsets[number + 1]] for store in (sources, targets)]
        expected[tuple(texts[0][not begin :])] = tuple(texts[1][not begin :])
    assert found == expected


def test_rows_are_nearly_full_and_pairs_that_do_not_fit_are_left_out():
    rng = np.random.default_rng(0)
    pairs = [(int(n), int(n) + int(rng.integers(-2, 3))) for n in rng.integers(5, 30, 3000)]
    sources, targets = make_pairs(pairs)
    rows = PairRows(sources, targets, PairReading(128, target_length=128))
    assert rows.left_out == 0
    for name in ("segment_ids", "target_segment_ids"):
        assert np.mean([rows[i][name] > 0 for i in range(len(rows))]) > 0.93
    short = PairRows(sources, targets, PairReading(25, target_length=40))
    assert short.left_out == sum(source + 1 > 25 for source, _ in pairs) > 100
    with pytest.raises(UserError, match=r"pairs of test \(train\) are longer than 10 tokens of source or 40 of target"):
        PairRows(sources, targets, PairReading(10, target_length=40))


def test_joined_records_draw_from_the_right_part():
    joined = JoinedRecords([DocumentParts(make_store([42, 42]), 20, others=True), make_windows()])
    assert "other_tokens" in joined.draw(3, np.random.default_rng(0))
    assert "other_tokens" not in joined.draw(4, np.random.default_rng(0))
    with pytest.raises(IndexError):
        joined.draw(len(joined), np.random.default_rng(0))


def make_windows():
    return TextWindows(make_store([42]), 20, drop_remainder=True)
