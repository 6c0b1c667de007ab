"""Gadre's law: it comes back, it is Chinchilla's with one exponent, its curves at two multipliers are one, shifted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer.errors import UserError
from transformer.scaling.laws import overtrain, synthetic
from transformer.scaling.laws.overtrain import OverTrain
from transformer.scaling.laws.parametric import Chinchilla

SIZES, MULTIPLIERS = np.geomspace(1e7, 1e9, 6)[:, None], np.array([5.0, 20, 80, 320])
LAW = OverTrain(E=1.8, a=150, b=250, eta=0.17)


@pytest.mark.exhaustive
@given(floor=st.floats(0.2, 3), eta=st.floats(0.06, 0.4), large=st.floats(0.2, 3), small=st.floats(0.2, 3))
def test_any_law_comes_back(floor, eta, large, small):
    """`large` and `small` are the terms' nats at the middle of the table."""
    flops, multiplier = 6 * 1e8**2 * 40, 40
    truth = OverTrain(floor, large * (flops / multiplier) ** eta, small * (flops * multiplier) ** eta, eta)
    found = overtrain.fit(synthetic.study(truth, SIZES, SIZES * MULTIPLIERS))
    assert found.law.parameters() == pytest.approx(truth.parameters(), rel=1e-6)
    assert found.objective < 1e-20
    assert found.rows == 24


def test_it_is_chinchillas_with_one_exponent():
    """Gadre et al. 2024, appendix B: alpha = beta = 2 eta, a = A 6^eta, b = B 6^eta."""
    same = Chinchilla(LAW.E, LAW.a * 6**-LAW.eta, LAW.b * 6**-LAW.eta, 2 * LAW.eta, 2 * LAW.eta)
    np.testing.assert_allclose(LAW.loss(SIZES, SIZES * MULTIPLIERS), same.loss(SIZES, SIZES * MULTIPLIERS), rtol=1e-13)
    for flops in (1e18, 1e24):
        assert LAW.optimum(flops) == pytest.approx(same.optimum(flops), rel=1e-12)


def test_at_every_multiplier_the_reducible_loss_falls_as_the_same_power():
    """The relation of the paper's figure 2: over-training moves the line and not its slope."""
    flops = np.geomspace(1e17, 1e22, 5)
    lines = [
        np.polyfit(np.log(flops), np.log(LAW.loss(np.sqrt(flops / (6 * m)), np.sqrt(flops * m / 6)) - LAW.E), 1)
        for m in (20, 320)
    ]
    assert lines[0][0] == pytest.approx(-LAW.eta, rel=1e-9)
    assert lines[1][0] == pytest.approx(-LAW.eta, rel=1e-9)
    assert lines[1][1] - lines[0][1] > 0.1


@pytest.mark.parametrize("flops", [1e18, 1e24])
def test_the_optimum_is_the_lowest_there_is(flops):
    best = LAW.optimum(flops)
    sizes = best.params * np.geomspace(0.01, 100, 40001)
    losses = LAW.loss(sizes, flops / (6 * sizes))
    assert sizes[np.argmin(losses)] == pytest.approx(best.params, rel=1e-3)
    assert LAW.optimal_loss(flops) <= losses.min()
    assert best.tokens / best.params == pytest.approx(LAW.multiplier())


@pytest.mark.parametrize("seed", range(3))
def test_no_random_start_ends_lower(seed):
    """Each is followed by another solver than the fit's."""
    table = synthetic.study(LAW, SIZES, SIZES * MULTIPLIERS, noise=0.003, seed=seed)
    found, problem = overtrain.fit(table), overtrain.Tied.of(table)
    rng = np.random.default_rng(seed)
    starts = rng.uniform([0.05, 0.05, 0.05, 0.03], [0.9, 1, 1, 0.8], (20, 4))
    assert found.objective <= min(problem.descend(start)[1] for start in starts) * (1 + 1e-6)
    assert found.law.loss(1e10, 1e12) == pytest.approx(LAW.loss(1e10, 1e12), rel=0.02)


def test_a_term_that_is_not_there_is_said():
    found = overtrain.fit(synthetic.study(OverTrain(1e-12, 150, 250, 0.17), SIZES, SIZES * MULTIPLIERS))
    assert "parameter-at-bound" in [warned.code for warned in found.warnings]
    assert found.law.parameters()["eta"] == pytest.approx(0.17, rel=1e-3)


def test_what_a_table_cannot_say_is_refused():
    with pytest.raises(UserError, match="every run reads 20 tokens per parameter, so that a and b look alike"):
        overtrain.fit(synthetic.study(LAW, SIZES, SIZES * 20))
    with pytest.raises(UserError, match="overtrain has 4 numbers to fit"):
        overtrain.fit(synthetic.study(LAW, SIZES[:2], SIZES[:2] * MULTIPLIERS[:2]))
