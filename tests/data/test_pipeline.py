import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.data.pipeline import eval_batches, iterate, origins, train_batches
from transformer.data.text.windows import Windows

from .test_windows import make_store


def make_windows(tokens, seq_len=4):
    return Windows(make_store([tokens]), seq_len + 1, overlap=1, drop_remainder=True)


def make_example(window, rng):
    return {
        "inputs": {"tokens": window["tokens"][:-1], "noise": rng.random(2)},
        "targets": window["tokens"][1:],
        "weights": (window["segment_ids"][1:] > 0).astype(np.float32),
    }


def batches(windows, weights=None, batch_size=8, seed=0, **hosts):
    return train_batches(
        windows, weights or [1.0] * len(windows), example=make_example, batch_size=batch_size, seed=seed, **hosts
    )


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, dict):
            assert_same(value, b[name])
        else:
            np.testing.assert_array_equal(value, b[name])


def join(parts):
    first = parts[0]
    return {
        k: join([p[k] for p in parts]) if isinstance(v, dict) else np.concatenate([p[k] for p in parts])
        for k, v in first.items()
    }


def hosts_rows(host_count):
    """Rows of 8 for each of some hosts that share them out."""
    return np.split(np.arange(8), host_count)


def rows_of(tree, rows):
    return {name: rows_of(x, rows) if isinstance(x, dict) else x[rows] for name, x in tree.items()}


@given(st.sets(st.integers(0, 7), min_size=1), st.sampled_from([[201], [201, 87]]))
def test_a_host_has_its_rows_of_the_global_batch_and_makes_no_other(rows, corpora):
    made = []

    def example(window, rng):
        made.append(1)
        return make_example(window, rng)

    windows, weights = [make_windows(n) for n in corpora], [1.0] * len(corpora)
    rows = sorted(rows)
    part = train_batches(windows, weights, example=example, batch_size=8, seed=0, rows=rows)
    for step in (0, 1, 5, 1000, 10**9):
        made.clear()
        assert_same(part[step], rows_of(batches(windows)[step], rows))
        assert len(made) == len(rows)


def test_seeking_equals_iterating():
    dataset = batches([make_windows(201)])
    with iterate(dataset, 0) as steps:
        walked = [next(steps) for _ in range(30)]
    for start in (0, 7, 29):
        with iterate(dataset, start, prefetch=2, threads=1) as steps:
            assert_same(next(steps), walked[start])
            assert start == 29 or assert_same(next(steps), walked[start + 1]) is None


def test_seeking_makes_no_example_on_the_way():
    made = []

    def counted(window, rng):
        made.append(1)
        return make_example(window, rng)

    dataset = train_batches([make_windows(201)], [1.0], example=counted, batch_size=8, seed=0)
    with iterate(dataset, 10**12, prefetch=4, threads=2) as steps:
        next(steps)
    assert 8 <= len(made) <= 8 * (1 + 4 + 2)  # what is asked for, made ahead, and being made


def test_each_epoch_visits_each_window_once_in_an_order_of_its_own():
    windows = make_windows(4 * 40 + 1)
    dataset = batches([windows], batch_size=8)
    epochs = [[int(t) for s in range(5 * e, 5 * e + 5) for t in dataset[s]["inputs"]["tokens"][:, 0]] for e in range(3)]
    everything = sorted(int(windows[i]["tokens"][0]) for i in range(len(windows)))
    assert len(everything) == 40
    for epoch in epochs:
        assert sorted(epoch) == everything
        assert epoch != everything
    assert epochs[0] != epochs[1] != epochs[2]


def test_seeds_change_order_and_noise_and_samples_have_noise_of_their_own():
    windows = [make_windows(201)]
    first, again, other = batches(windows)[3], batches(windows)[3], batches(windows, seed=1)[3]
    assert_same(first, again)
    assert not np.array_equal(first["targets"], other["targets"])
    assert len(np.unique(first["inputs"]["noise"])) == first["inputs"]["noise"].size
    assert not np.isin(first["inputs"]["noise"], other["inputs"]["noise"]).any()


def test_mixtures_keep_their_proportions_and_repeat_the_smaller_corpus():
    big, small = make_windows(8001), make_windows(41)
    tokens = np.concatenate([batches([big, small], [3.0, 1.0])[s]["targets"] for s in range(100)])
    from_small = np.mean(tokens.max(axis=1) <= 41)
    assert 0.24 < from_small < 0.28  # 1/4, and the few of the big corpus that look alike


@given(st.lists(st.sampled_from([45, 87, 201]), min_size=1, max_size=3), st.integers(0, 10**9), st.integers(0, 9))
def test_origins_say_which_record_a_sample_is(corpora, place, seed):
    windows = [make_windows(n) for n in corpora]
    weights = [1.0 + n for n in range(len(windows))]
    stream = train_batches(windows, weights, example=make_example, batch_size=1, seed=seed)
    corpus, record, _ = origins(windows, weights, seed=seed, batch_size=8)[place]
    np.testing.assert_array_equal(stream[place]["targets"][0], windows[corpus][record]["tokens"][1:])


def test_origins_count_epochs():
    found = [origins([make_windows(4 * 40 + 1)], [1.0], seed=0, batch_size=8)[place] for place in range(80)]
    assert [origin.epoch for origin in found] == [0] * 40 + [1] * 40
    assert [sorted(o.record for o in found[start : start + 40]) for start in (0, 40)] == [[*range(40)]] * 2


@pytest.mark.parametrize("host_count", [1, 4])
@pytest.mark.parametrize("corpora", [[201], [201, 87]])
def test_a_sample_that_is_left_out_is_padding_and_moves_no_other(corpora, host_count):
    windows = [make_windows(n) for n in corpora]
    skip = [17, 3, 10**9 * 8 + 5, 17]  # of steps 2, 0 and 10^9; a place named twice is left out once
    whole = batches(windows)
    parts = [batches(windows, skip=skip, rows=rows) for rows in hosts_rows(host_count)]
    for step, row in ((0, 3), (1, None), (2, 1), (10**9, 5)):
        without = join([part[step] for part in parts])
        others = np.arange(8) != row
        for name in ("targets", "weights"):
            np.testing.assert_array_equal(without[name][others], whole[step][name][others])
        for name in ("tokens", "noise"):
            np.testing.assert_array_equal(without["inputs"][name][others], whole[step]["inputs"][name][others])
        if row is not None:
            assert whole[step]["weights"][row].sum() == 4
            for left in (without["weights"], without["targets"], without["inputs"]["tokens"]):
                assert not left[row].any()
    with iterate(batches(windows, skip=skip), 2) as steps:
        assert_same(next(steps), join([part[2] for part in parts]))


@pytest.mark.parametrize("host_count", [1, 2])
def test_evaluation_sees_every_target_once_in_batches_of_one_shape(host_count):
    windows = Windows(make_store([30, 25, 31]), 5, overlap=1, drop_remainder=False)
    parts = []
    for rows in hosts_rows(host_count):
        dataset = eval_batches(windows, example=make_example, batch_size=8, rows=rows)
        with iterate(dataset, 0) as steps:
            parts.append(list(steps))
        with iterate(dataset, 0) as steps:
            for first, second in zip(parts[-1], steps, strict=True):
                assert_same(first, second)
    found = [join(list(part)) for part in zip(*parts, strict=True)]
    assert {batch["targets"].shape for batch in found} == {(8, 4)}
    assert sum(batch["weights"].sum() for batch in found) == 85
    targets = np.concatenate([batch["targets"][batch["weights"] > 0] for batch in found])
    np.testing.assert_array_equal(targets, np.arange(2, 87))


@pytest.mark.parametrize("stop", [None, KeyboardInterrupt, ValueError])
def test_leaving_stops_the_threads(stop):
    before = set(threading.enumerate())
    try:
        with iterate(batches([make_windows(201)]), 0) as steps:
            next(steps)
            if stop is not None:
                raise stop
    except (KeyboardInterrupt, ValueError):
        pass
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def test_an_error_in_an_example_reaches_the_loop():
    def broken(window, rng):
        raise ZeroDivisionError("in the example")

    dataset = train_batches([make_windows(201)], [1.0], example=broken, batch_size=2, seed=0)
    with pytest.raises(ZeroDivisionError), iterate(dataset, 0) as steps:
        next(steps)
