"""The pictures: what is drawn, how often, and where; how they look is for eyes."""

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from tests.scaling.reports import studies
from transformer.scaling.laws import isoflop, predict
from transformer.scaling.reports import figures, results
from transformer.scaling.reports.wording import scientific, short


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "study"
    studies.write(folder, studies.planned(sizes=5, repeats=2))
    studies.fit(folder, ("chinchilla", "isoflop"), 60)
    return results.read_results(folder)


def drawn(figure, gid):
    return [artist for axes in figure.axes for artist in axes.get_children() if artist.get_gid() == gid]


def test_a_parabola_for_every_budget_and_its_lowest_point(found):
    figure = figures.parabolas(found.fitted, found.held_out)
    lines = drawn(figure, "parabola")
    assert [line.get_linestyle() for line in lines] == ["-", "-", "-", "--"]
    assert len({tuple(line.get_color()) for line in lines}) == 4
    profiles = [*isoflop.profiles(found.fitted), *isoflop.profiles(found.held_out)]
    for line, star, profile in zip(lines, drawn(figure, "lowest"), profiles, strict=True):
        x, y = line.get_data()
        assert x[np.argmin(y)] == pytest.approx(profile.valley.lowest, rel=0.02)
        assert star.get_xydata()[0] == pytest.approx([profile.valley.lowest, profile.valley.depth])
    [axes] = figure.axes
    points = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert sum(len(line.get_xdata()) for line in points) == len(found.fitted) + len(found.held_out)  # repeats apart


def test_runs_of_no_budget_are_drawn_apart(found):
    few = found.fitted.take(np.arange(2))
    [axes] = figures.parabolas(few, found.held_out).axes
    [left] = [line for line in axes.get_lines() if line.get_marker() == "s"]
    assert list(left.get_ydata()) == list(few.loss)


def test_an_edge_minimum_has_no_star(found):
    grid = found.fitted.take(isoflop.budgets(found.fitted)[0])
    falling = dataclasses.replace(grid, loss=3 + 0.1 * np.log(grid.params / grid.params.max() / 2) ** 2)
    figure = figures.parabolas(falling, None)
    assert len(drawn(figure, "lowest")) == 0
    assert len(drawn(figure, "parabola")) == 1


def test_a_branch_begins_on_its_trunk(found):
    figure = figures.loss_curves(found)
    curves = drawn(figure, "curve")
    assert len(curves) == len(found.runs)
    for run, line in zip(found.runs, curves, strict=True):
        x, y = line.get_data()
        if run.cell.trunk is None:
            assert len(x) == len(run.steps)
            continue
        trunk = found[run.cell.trunk]
        last = np.flatnonzero(trunk.steps <= run.cell.branch)[-1]
        assert (x[0], y[0]) == (trunk.tokens[last], trunk.losses[last])
        assert list(x[1:]) == list(run.tokens)
    sizes = {run.cell.params: line.get_color() for run, line in zip(found.runs, curves, strict=True)}
    assert len(set(sizes.values())) == len(sizes)


def test_allocations_are_the_laws_and_dashed_beyond_the_range(found):
    figure = figures.allocations(found.laws, found.source, found.fitted, found.held_out)
    low, high = found.source.ranges["flops"]
    bands = drawn(figure, "band")
    assert sum(isinstance(band, Line2D) for band in bands) == 2 * 2 * (len(found.laws) - 1)  # an edge each
    [filled, _] = [band for band in bands if not isinstance(band, Line2D)]
    assert to_hex(filled.get_facecolor()[0]) == "#0072b2"  # chinchilla's
    assert len(bands) == 2 + 2 * 2 * (len(found.laws) - 1)  # of the first law, filled
    inside, beyond = drawn(figure, "law"), drawn(figure, "beyond")
    assert len(inside) == len(beyond) == 2 * len(found.laws)
    for solid, dashed in zip(inside, beyond, strict=True):
        assert low <= min(solid.get_xdata()) <= max(solid.get_xdata()) <= high
        assert max(dashed.get_xdata()) == pytest.approx(30 * max(found.held_out.flops))
        assert dashed.get_linestyle() == "--"
    said = found.laws[0].fit.law.optimum(beyond[-1].get_xdata()[-1])  # the first law is drawn last
    assert beyond[-1].get_ydata()[-1] == pytest.approx(said.tokens)


def test_predictions_of_the_held_out_budget(found):
    figure = figures.predictions(found.laws[0], found.held_out)
    [line] = drawn(figure, "law")
    assert len(drawn(figure, "band")) == 2
    n, loss = (values[30] for values in line.get_data())
    budget = np.exp(np.log(found.held_out.flops).mean())
    assert loss == pytest.approx(predict.loss(found.laws[0], n, budget / (6 * n)).loss, rel=1e-3)
    [points] = drawn(figure, "measured")
    assert list(points.get_ydata()) == list(found.held_out.loss)


def test_held_out_runs_of_no_grid_are_predicted_one_by_one(found):
    figure = figures.predictions(found.laws[0], found.held_out.take(np.array([0, 3])))
    assert len(drawn(figure, "law")) == 2


def test_smoothing_takes_noise_and_no_slope():
    tokens = np.geomspace(1e4, 1e6, 400)
    line = 9 - 0.5 * np.log10(tokens)
    assert figures.smooth(tokens, line) == pytest.approx(line, abs=1e-6)
    rough = line + 0.1 * np.random.default_rng(0).standard_normal(400)
    assert np.std(figures.smooth(tokens, rough) - line) < 0.04
    rough[7] = np.nan
    assert np.flatnonzero(np.isnan(figures.smooth(tokens, rough))) == [7]
    far = np.array([1e3, 1e4, 1e5])
    assert figures.smooth(far, np.array([8.0, 5.0, 4.0])) == pytest.approx([8, 5, 4])


def test_residuals_are_measured_over_predicted(found):
    figure = figures.residuals(found.laws[0], found.fitted, None)
    by_n = figure.axes[1].get_lines()[0]
    table = found.fitted
    assert by_n.get_ydata() == pytest.approx(table.loss / found.laws[0].fit.law.loss(table.params, table.tokens) - 1)


def test_pairs_have_a_point_a_refit(found):
    figure = figures.pairs(found.laws[0])
    assert len(figure.axes) == 6
    dots = figure.axes[0].get_lines()[0]
    assert list(dots.get_xdata()) == [law.alpha for law in found.laws[0].bootstrap.laws]
    assert sum(bar.get_height() for bar in figure.axes[5].patches) == len(found.laws[0].bootstrap.laws)


@pytest.mark.parametrize(
    ("value", "short_form", "scientific_form"),
    [
        (84210, "84.2k", "8.42e4"),
        (1e6, "1M", "1e6"),
        (999_990, "1M", "1e6"),
        (3e11, "300B", "3e11"),
        (0.5, "0.5", "5e-1"),
    ],
)
def test_numbers_as_people_read_them(value, short_form, scientific_form):
    assert short(value) == short_form
    assert scientific(value) == scientific_form
