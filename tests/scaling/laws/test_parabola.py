"""The bottom of a valley: parabolas that are one come back, and NumPy's polynomial is the outside truth of the rest."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.scaling.laws import parabola


@given(
    lowest=st.floats(1e-5, 1e12),
    depth=st.floats(0.1, 10),
    curvature=st.floats(1e-3, 1),
    off=st.floats(-0.9, 0.9),
    half=st.floats(0.2, 4),
    count=st.integers(3, 9),
)
def test_a_parabola_comes_back(lowest, depth, curvature, off, half, count):
    x = lowest * np.exp(half * (np.linspace(-1, 1, count) + off))
    found = parabola.fit(x, depth + curvature * np.log(x / lowest) ** 2)
    assert found.lowest == pytest.approx(lowest, rel=1e-9)
    assert found.depth == pytest.approx(depth, rel=1e-9)
    assert found.curvature == pytest.approx(curvature, rel=1e-6)
    assert found.inside
    codes = [warned.code for warned in found.warnings("here", "sizes")]
    assert ("no-freedom" in codes) == (count == 3)


def test_least_squares_with_repeats_and_the_curvatures_error_are_numpys():
    rng = np.random.default_rng(0)
    x = np.repeat(np.geomspace(1e6, 1e8, 5), 2)
    loss = 3 + 0.1 * np.log(x / 1e7) ** 2 + rng.normal(0, 0.05, 10)
    coefficients, covariance = np.polyfit(np.log(x), loss, 2, cov=True)
    found = parabola.fit(x, loss)
    assert found.curvature == pytest.approx(coefficients[0], rel=1e-9)
    assert math.log(found.lowest) == pytest.approx(-coefficients[1] / (2 * coefficients[0]), rel=1e-9)
    assert found.depth == pytest.approx(np.polyval(coefficients, math.log(found.lowest)), rel=1e-9)
    assert found.error == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-9)
    assert found.squares == pytest.approx(np.sum((np.polyval(coefficients, np.log(x)) - loss) ** 2), rel=1e-9)


@pytest.mark.parametrize(
    ("lowest", "inside", "side"), [(0.99, False, "smaller"), (1.01, True, ""), (101, False, "larger")]
)
def test_a_lowest_point_that_is_not_bracketed_is_at_the_edge(lowest, inside, side):
    x = np.geomspace(1, 100, 6)
    found = parabola.fit(x, 2 + 0.1 * np.log(x / lowest) ** 2)
    assert found.inside == inside
    [warned] = found.warnings("budget 1e+18", "sizes")
    if inside:
        assert warned.code == "off-centre"
    else:
        assert warned.code == "minimum-at-edge"
        assert warned.message.startswith(
            f"budget 1e+18: the lowest loss, at {lowest:.3g}, is not inside sizes 1 to 100"
        )
        assert warned.message.endswith(f"add {side} sizes")


@pytest.mark.parametrize(("lowest", "codes"), [(10**0.51, []), (10**0.49, ["off-centre"]), (10**1.51, ["off-centre"])])
def test_a_lowest_point_in_an_outer_quarter_is_off_centre(lowest, codes):
    x = np.geomspace(1, 100, 6)
    found = parabola.fit(x, 2 + 0.1 * np.log(x / lowest) ** 2)
    assert [warned.code for warned in found.warnings("b", "sizes")] == codes


@pytest.mark.parametrize("bend", [-1.0, -1e-3])
def test_a_parabola_that_opens_downwards_has_no_lowest_point(bend):
    x = np.geomspace(1, 100, 6)
    found = parabola.fit(x, 2 + bend * np.log(x / 9) ** 2)
    assert math.isnan(found.lowest)
    assert math.isnan(found.depth)
    assert not found.inside
    assert [warned.code for warned in found.warnings("b", "sizes")] == ["non-convex-parabola"]


def test_a_slope_is_an_edge_however_far_its_vertex():
    x = np.geomspace(1, 100, 6)
    found = parabola.fit(x, 5 - np.log(x) + 1e-9 * np.log(x) ** 2)
    assert not found.inside
    assert [warned.code for warned in found.warnings("b", "sizes")] == ["minimum-at-edge"]


def test_a_curvature_that_could_be_noise_is_said():
    x = np.geomspace(1, 100, 7)
    noise = np.array([1, -1, 1, -1, 1, -1, 1]) * 0.02
    valley = 2 + 0.001 * np.log(x / 10) ** 2
    assert "flat-parabola" in [warned.code for warned in parabola.fit(x, valley + noise).warnings("b", "sizes")]
    assert parabola.fit(x, valley + noise / 100).warnings("b", "sizes") == []
