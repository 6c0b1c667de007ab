"""The objective is SciPy's Huber, or the sum of squares; fixed parameters stay, and the others are at their minimum."""

import numpy as np
import pytest
from scipy.special import huber as scipy_huber

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.scaling.laws import (
    descent,
    fitting,
    how,
    kaplan,
    overtrain,
    parametric,
    penalty,
    repeat_fit,
    synthetic,
)
from transformer.scaling.laws.coverage import TRUTH
from transformer.scaling.laws.how import How
from transformer.scaling.laws.kaplan import Kaplan, KaplanParams
from transformer.scaling.laws.overtrain import OverTrain
from transformer.scaling.laws.repeat import Repeat

SIZES, TOKENS = np.geomspace(1e8, 3e9, 6)[:, None], np.geomspace(2e9, 1e11, 6)
REPEAT = Repeat(1.87, 521.0, 1488.0, 0.35, 0.35, 15.4, 5.3)
OVER = OverTrain(1.8, 150, 250, 0.17)
STUDIES = {
    "chinchilla": (parametric.fit, TRUTH, synthetic.study(TRUTH, SIZES, TOKENS, noise=0.01)),
    "overtrain": (overtrain.fit, OVER, synthetic.study(OVER, SIZES, TOKENS, noise=0.01)),
    "kaplan": (
        kaplan.fit,
        Kaplan(0.076, 0.103, 6.4e13, 1.8e13),
        synthetic.study(Kaplan(0.076, 0.103, 6.4e13, 1.8e13), SIZES, TOKENS, noise=0.01),
    ),
    "kaplan-n": (
        kaplan.fit_params,
        KaplanParams(0.076, 8.8e13),
        synthetic.study(KaplanParams(0.076, 8.8e13), SIZES, TOKENS, noise=0.01),
    ),
    "repeat": (
        repeat_fit.fit,
        REPEAT,
        synthetic.study(
            REPEAT,
            np.geomspace(2e7, 9e9, 5)[:, None, None],
            np.array([1e8, 1.5e9, 2.5e10])[:, None] * [1, 4, 16, 64],
            np.array([1e8, 1.5e9, 2.5e10])[:, None],
            noise=0.01,
        ),
    ),
}
EVERY = [(law, name) for law, (_, truth, _) in STUDIES.items() for name in vars(truth)]


def test_the_objectives_are_scipys_and_the_sum_of_squares():
    error = np.random.default_rng(0).standard_t(2, 100) * 2e-3
    np.testing.assert_allclose(penalty.HUBER.value(error), scipy_huber(1e-3, error), rtol=1e-12)
    np.testing.assert_allclose(penalty.SQUARES.value(error), error**2, rtol=1e-12)
    for each in (penalty.HUBER, penalty.SQUARES):
        step = 1e-9
        np.testing.assert_allclose(
            each.pull(error), (each.value(error + step) - each.value(error - step)) / 2e-9, atol=1e-9
        )


@pytest.mark.parametrize(("law", "name"), few(EVERY, ("chinchilla", "alpha"), ("repeat", "R_N")))
def test_a_fixed_parameter_stays_and_the_others_are_at_the_minimum(law, name):
    """Fixed where a free fit has it, the others come back; fixed elsewhere, the objective rises."""
    fit, _, table = STUDIES[law]
    free = fit(table)
    numbers = dict(vars(free.law))
    held = fit(table, How(fixed={name: numbers[name]}))
    assert vars(held.law)[name] == numbers[name]
    assert held.objective == pytest.approx(free.objective, rel=1e-6)
    assert vars(held.law) == pytest.approx(numbers, rel=2e-2)
    moved = fit(table, How(fixed={name: numbers[name] * 1.05}))
    assert vars(moved.law)[name] == numbers[name] * 1.05
    assert moved.objective > free.objective
    assert moved.convergence.converged


def test_least_squares_is_another_minimum():
    table = STUDIES["chinchilla"][2]
    squares = parametric.fit(table, How(objective=penalty.SQUARES))
    off = np.log(squares.law.predict(table) / table.loss)
    assert squares.objective == pytest.approx(float(off @ off), rel=1e-9)
    assert squares.minimised == "sum of squared errors of log loss"
    huber = parametric.fit(table)
    other = np.log(huber.law.predict(table) / table.loss)
    assert float(other @ other) > squares.objective
    assert huber.objective < penalty.HUBER.value(off).sum()


def test_fixed_parameters_have_no_interval_and_are_named():
    fitted = fitting.fit(STUDIES["chinchilla"][2], "chinchilla", 20, how=How(fixed={"E": 1.69, "A": 406.4}))
    assert fitted.fit.fixed == ("E", "A")
    errors, intervals = fitted.bootstrap.standard_errors(), fitted.bootstrap.intervals()
    assert all(np.isnan(errors[name]) and np.isnan(intervals[name]).all() for name in ("E", "A"))
    assert all(errors[name] > 0 for name in ("B", "alpha", "beta"))


def test_what_cannot_be_fixed_is_refused():
    table = STUDIES["chinchilla"][2]
    for fixed, said in (
        ({"gamma": 1.0}, "chinchilla has no parameter 'gamma' to fix; it has: E, A, B, alpha, beta"),
        ({"alpha": 7.0}, "chinchilla: alpha cannot be fixed at 7: it is between 0.01 and 3"),
        ({"E": -1.0}, "chinchilla: E cannot be fixed at -1"),
        (dict.fromkeys(("E", "A", "B", "alpha", "beta"), 1.0), "nothing is left to fit"),
    ):
        with pytest.raises(UserError, match=said):
            parametric.fit(table, How(fixed=fixed))
    with pytest.raises(UserError, match="isoflop has no parameter 'E' to fix"):
        fitting.fit(table, "isoflop", 0, how=How(fixed={"E": 1.0}))
    assert how.parse_fixed(["E=0.6254", "alpha=0.3527"]) == {"E": 0.6254, "alpha": 0.3527}
    for text in ("E", "E=", "=1", "E=x", "E=nan"):
        with pytest.raises(UserError, match="write NAME=NUMBER"):
            how.parse_fixed([text])
    with pytest.raises(UserError, match="given twice"):
        how.parse_fixed(["E=1", "E=2"])
    with pytest.raises(UserError, match="did you mean huber"):
        penalty.named("hubr")


def test_cells_are_counted_and_not_rows():
    table = synthetic.study(KaplanParams(0.076, 8.8e13), np.geomspace(1e6, 1e9, 4)[:, None], np.full(3, 1e9))
    assert len(table) == 12
    descent.require_cells(table, "a law", 3)
    with pytest.raises(UserError, match="a law has 4 numbers to fit: it needs runs of 5 sizes and tokens; 4 here"):
        descent.require_cells(table, "a law", 4)
