"""What people see of a sweep: which field lies across, on which scale, medians over seeds, and the best run."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from transformer.sweeps import show
from transformer.sweeps.rows import Row


def row(loss, state="ended", **values):
    named = {name.replace("__", "."): value for name, value in values.items()}
    return Row("name", state, named, 3, 1000, 96, 1e5, 0.5, 2.0, loss)


@given(st.floats(1e-6, 1e3), st.floats(1.5, 10), st.integers(3, 8))
def test_powers_are_geometric(first, ratio, number):
    assert show.geometric([first * ratio**power for power in range(number)])


@given(st.integers(1, 100), st.integers(1, 100), st.integers(3, 8))
def test_equal_steps_are_not(first, step, number):
    assert not show.geometric([first + step * index for index in range(number)])


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1e-3, 3e-3, 1e-2, 3e-2], True), ([64, 128], True), ([2, 3], False), ([0, 1, 10], False), ([5], False)],
)
def test_which_axis_is_logarithmic(values, expected):
    assert show.geometric(values) is expected


def test_the_first_numbers_lie_across_and_the_seed_last():
    rows = [row(1.0, optimizer__name="muon", train__seed=0, model__width=64, a=True)]
    assert show.horizontal(rows, ("optimizer.name", "a", "train.seed", "model.width")) == "model.width"
    assert show.horizontal(rows, ("optimizer.name", "train.seed")) == "train.seed"
    assert show.horizontal(rows, ("optimizer.name", "a")) == "optimizer.name"


def test_a_line_is_the_median_over_seeds_and_what_was_lost_is_marked():
    losses = {(1e-3, 64): (3.0, 5.0, 3.5), (1e-2, 64): (2.0, 2.5, 9.0), (1e-3, 128): (1.0, 1.5, math.nan)}
    rows = [
        row(loss, "ended" if loss == loss else "failed", rate=rate, width=width, train__seed=seed)
        for (rate, width), each in losses.items()
        for seed, loss in enumerate(each)
    ]
    axes = Figure().subplots()
    show.draw(axes, rows, ("rate", "width", "train.seed"))
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["width 64", "width 128"]
    medians, dots, lost = axes.lines[:3]
    # A mark of a median is for where no line shows it.
    assert [axes.lines[place].get_marker() for place in (0, 3)] == ["", "_"]
    assert (list(medians.get_xdata()), list(medians.get_ydata())) == ([1e-3, 1e-2], [3.5, 2.5])
    assert len(dots.get_xdata()) == 6
    assert len(lost.get_xdata()) == 0
    assert list(axes.lines[3].get_ydata()) == [1.25]
    assert list(axes.lines[5].get_xdata()) == [1e-3]
    assert show.best(rows) is rows[6]
    assert show.best(rows[8:]) is None


def test_words_lie_side_by_side():
    axes = Figure().subplots()
    show.draw(axes, [row(2.0, name="muon"), row(3.0, name="adamw"), row(math.nan, "waits", name="lion")], ("name",))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["muon", "adamw", "lion"]
    assert axes.lines[0].get_linestyle() == "None"
