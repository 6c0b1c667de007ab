"""Learning-rate and batch laws: a truth comes back, published laws give published runs, poor sweeps are said."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import linregress

from transformer.errors import UserError
from transformer.scaling.laws import power_law
from transformer.scaling.laws.power_law import (
    DEEPSEEK_LEARNING_RATE,
    STEP_LEARNING_RATE,
    PowerLaw,
)

SIZES, TOKENS = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 1e9, 3), np.geomspace(1e9, 1e11, 3)))


def _sweeps(law, cells, count=7, spread=8.0, off=1.0, noise=0.0):
    """Returns settings, losses and cells of one sweep a cell; the loss is a parabola about the law's setting."""
    best = np.array([law(**dict(zip(cells, cell, strict=True))) for cell in zip(*cells.values(), strict=True)])
    settings = best[:, None] * off * spread ** np.linspace(-1, 1, count)
    loss = 3 + 0.05 * np.log(settings / best[:, None]) ** 2
    loss = loss + np.random.default_rng(0).normal(0, noise, loss.shape)
    return settings.ravel(), loss.ravel(), {name: np.repeat(values, count) for name, values in cells.items()}


def _codes(fit):
    return [warned.code for warned in fit.warnings]


@given(k=st.floats(0.01, 10), of_n=st.floats(-1, 1), of_d=st.floats(-1, 1))
def test_a_law_in_two_comes_back(k, of_n, of_d):
    truth = PowerLaw(k, {"N": of_n, "D": of_d})
    found = power_law.fit(*_sweeps(truth, {"N": SIZES, "D": TOKENS}))
    assert found.law.exponents == pytest.approx(truth.exponents, abs=1e-9)
    assert found.law.coefficient == pytest.approx(k, rel=1e-7)
    assert found.error < 1e-9
    assert found.warnings == ()
    assert len(found.sweeps) == 9


def test_a_law_in_the_budget_comes_back_near_with_noise():
    budgets = np.geomspace(1e17, 1e20, 6)
    found = power_law.fit(*_sweeps(DEEPSEEK_LEARNING_RATE, {"C": budgets}, noise=0.002))
    assert found.law(C=1e23) == pytest.approx(DEEPSEEK_LEARNING_RATE(C=1e23), rel=0.2)
    assert 0 < found.error < 0.1
    log_best = np.log([sweep.valley.lowest for sweep in found.sweeps])
    slope, level = np.polyfit(np.log(budgets), log_best, 1)
    assert found.law.exponents["C"] == pytest.approx(slope, rel=1e-9)
    assert math.log(found.law.coefficient) == pytest.approx(level, rel=1e-9)
    misfit = log_best - np.polyval([slope, level], np.log(budgets))
    assert found.error == pytest.approx(math.sqrt(np.mean(misfit**2)), rel=1e-6)
    assert found.errors["C"] == pytest.approx(linregress(np.log(budgets), log_best).stderr, rel=1e-9)


@pytest.mark.parametrize(("params", "learning_rate"), [(7e9, 4.2e-4), (67e9, 3.2e-4)])
def test_deepseeks_law_gives_its_models(params, learning_rate):
    """Bi et al. 2024, table 2: both models on 2T tokens; M is within a sixth of 6 N."""
    flops = 6 * params * 2e12
    assert DEEPSEEK_LEARNING_RATE(C=flops) == pytest.approx(learning_rate, rel=0.03)


def test_the_step_law_is_as_published():
    assert STEP_LEARNING_RATE(N=1e9, D=1e11) == pytest.approx(1.79 * 1e9**-0.713 * 1e11**0.307)
    assert 1e-4 < STEP_LEARNING_RATE(N=1e9, D=1e11) < 5e-3
    with pytest.raises(UserError, match="a power law in N, D; given D"):
        STEP_LEARNING_RATE(D=1e11)


def test_a_rate_that_nearly_diverges_and_one_that_does_leave_the_best_where_it_is():
    truth = PowerLaw(0.3, {"C": -0.125})
    setting, loss, at = _sweeps(truth, {"C": np.geomspace(1e17, 1e20, 4)}, count=9)
    loss = loss.reshape(4, 9)
    loss[:, 7] += 4
    loss[:, 8] = math.nan
    found = power_law.fit(setting, loss.ravel(), at)
    assert found.law.exponents["C"] == pytest.approx(-0.125, abs=1e-9)
    assert found.law.coefficient == pytest.approx(0.3, rel=1e-7)
    assert _codes(found) == ["diverged-run"]
    assert found.warnings[0].message.startswith("4 of 36 runs have no finite loss")


def test_a_sweep_that_does_not_bracket_its_best_is_left_out_and_named():
    truth = PowerLaw(0.3, {"C": -0.125})
    budgets = np.geomspace(1e17, 1e20, 4)
    setting, loss, at = _sweeps(truth, {"C": budgets})
    loss = np.where(at["C"] == budgets[0], np.where(setting > 2 * truth(C=1e17), loss, math.nan), loss)
    found = power_law.fit(setting, loss, at)
    assert _codes(found) == ["diverged-run", "rows-left-out"] or _codes(found) == ["diverged-run", "minimum-at-edge"]
    assert "the sweep at C 1e+17" in found.warnings[1].message
    assert found.law.exponents["C"] == pytest.approx(-0.125, abs=1e-9)
    with pytest.raises(
        UserError, match="needs 2 sweeps that bracket their best of learning rates; 0 here; the sweep at C"
    ):
        power_law.fit(*_sweeps(truth, {"C": budgets}, off=20))


def test_as_many_sweeps_as_numbers_are_said_to_say_nothing_of_how_well():
    found = power_law.fit(*_sweeps(PowerLaw(0.3, {"C": -0.125}), {"C": np.array([1e17, 1e19])}), what="batches")
    assert _codes(found) == ["no-freedom"]
    assert math.isnan(found.error)
    assert found.law.exponents["C"] == pytest.approx(-0.125, abs=1e-9)


def test_cells_of_one_ratio_cannot_tell_size_from_tokens():
    sizes = np.geomspace(1e7, 1e9, 5)
    with pytest.raises(UserError, match="the sweeps do not vary N and D apart from each other"):
        power_law.fit(*_sweeps(STEP_LEARNING_RATE, {"N": sizes, "D": 20 * sizes}))
    with pytest.raises(UserError, match="the sweeps do not vary N and D apart"):
        power_law.fit(*_sweeps(STEP_LEARNING_RATE, {"N": sizes, "D": np.full(5, 1e10)}))
