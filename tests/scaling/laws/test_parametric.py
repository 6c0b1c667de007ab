"""The parametric law: the published tables, its derivatives, its minimum, and what it refuses."""

import csv
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, least_squares, minimize, minimize_scalar

from transformer.errors import UserError
from transformer.scaling.laws import bootstrap, diagnostics, newton, parametric, reading, synthetic
from transformer.scaling.laws.coverage import TRUTH
from transformer.scaling.laws.methods import METHODS
from transformer.scaling.laws.parametric import Chinchilla, Terms
from transformer.scaling.laws.penalty import DELTA
from transformer.scaling.laws.reading import Columns

DATA = Path(__file__).parent / "published"
SIZES, TOKENS = np.geomspace(1e8, 3e9, 5)[:, None], np.geomspace(2e9, 1e11, 5)


@pytest.fixture(scope="module")
def epoch():
    """The Chinchilla paper's 245 runs, read off its figure."""
    return reading.read(DATA / "chinchilla_epoch.csv", Columns(flops="flops"))


@pytest.fixture(scope="module")
def epoch_240(epoch):
    return reading.drop_highest(epoch, 5)


@pytest.fixture(scope="module")
def fitted(epoch_240):
    return parametric.fit(epoch_240)


def _olmo():
    with (DATA / "olmo_ladder_c4.csv").open() as file:
        kept = np.array([row["xC"] in ("1xC", "2xC", "5xC", "10xC") for row in csv.DictReader(file)])
    return reading.read(DATA / "olmo_ladder_c4.csv", Columns("N", "D")).take(kept)


def test_the_published_minimum(epoch_240, fitted):
    """Besiroglu et al. 2024's data, at the global minimum: better than their own 482.01, 2085.43, 1.8172."""
    found, law = fitted, fitted.law
    numbers = [found.objective, law.A, law.B, law.E, law.alpha, law.beta, law.a]
    expected = [1.01827e-3, 477.83, 2143.4, 1.81722, 0.34731, 0.36717, 0.5139]
    np.testing.assert_allclose(numbers, expected, rtol=1e-4)
    assert found.convergence.converged
    assert found.warnings == ()
    assert found.minima[0].starts == 64  # every start of the grid ends there
    published = parametric.check_convergence(epoch_240, Chinchilla(1.8172, 482.01, 2085.43, 0.3478, 0.3658))
    assert 0.003 < published.better < 0.006


def test_all_rows(epoch):
    found = parametric.fit(epoch)
    numbers = [found.objective, found.law.A, found.law.B, found.law.E, found.law.alpha, found.law.beta]
    np.testing.assert_allclose(numbers, [1.82601e-3, 495.7, 12846, 1.8913, 0.3493, 0.4531], rtol=3e-4)
    assert found.law.a == pytest.approx(0.565, abs=5e-4)
    far = diagnostics.outliers(epoch, found.law, lambda table: parametric.fit(table).law)
    assert {"line 2", "line 3", "line 4", "line 5"} < set(far.rows)


def test_the_standard_errors_are_the_published_ones(epoch_240, fitted):
    """A (124.58) and B (1293.23) within 15 %; the others are printed with one digit, which leaves half of it open."""
    law = fitted.law
    weights = bootstrap.counts(bootstrap.draws(240, 1000, seed=0))
    errors = bootstrap.Bootstrap(tuple(METHODS["chinchilla"].resampled(epoch_240, [law], weights))).standard_errors()
    assert errors["A"] == pytest.approx(124.58, rel=0.15)
    assert errors["B"] == pytest.approx(1293.23, rel=0.15)
    for name, printed in (("E", 0.03), ("alpha", 0.02), ("beta", 0.02), ("a", 0.02)):
        assert (printed - 0.005) * 0.95 < errors[name] < (printed + 0.005) * 1.05


def test_a_fit_that_stopped_early_is_recognised(epoch_240):
    """The mean in place of the sum, SciPy's default tolerance, a start of Hoffmann et al.'s grid: "success"."""
    n, d, y = np.log(epoch_240.params), np.log(epoch_240.tokens), np.log(epoch_240.loss)

    def mean(at):
        terms = np.stack([at[0] - at[3] * n, at[1] - at[4] * d, np.full_like(n, at[2])])
        shares = np.exp(terms - np.logaddexp.reduce(terms))
        off = np.logaddexp.reduce(terms) - y
        size = np.minimum(np.abs(off), DELTA)
        pull = np.clip(off, -DELTA, DELTA)
        slopes = np.stack([shares[0], shares[1], shares[2], -shares[0] * n, -shares[1] * d])
        return np.mean(size * (np.abs(off) - size / 2)), np.mean(slopes * pull, axis=1)

    stopped = minimize(mean, [0.0, 0.0, -1.0, 0.0, 0.0], jac=True, method="L-BFGS-B")
    assert stopped.success
    a, b, e, alpha, beta = stopped.x
    # Where it stops is a matter of rounding, by 0.003 from one maker's processor to another's, but it is this far off.
    assert 240 * stopped.fun == pytest.approx(1.10831e-3, rel=1e-3)
    assert alpha - 0.34731 > 0.025
    assert 0.36717 - beta > 0.05
    found = parametric.check_convergence(epoch_240, Chinchilla(np.exp(e), np.exp(a), np.exp(b), alpha, beta))
    assert not found.converged
    assert found.better == pytest.approx(1 - 1.01827e-3 / 1.10831e-3, rel=1e-2)
    # The minimum, printed with five digits, is told from it.
    assert parametric.check_convergence(epoch_240, Chinchilla(1.81722, 477.83, 2143.4, 0.34731, 0.36717)).converged


def test_losses_extrapolate_better_than_allocations(epoch_240, fitted):
    found = diagnostics.drift(epoch_240, fitted.law, lambda table: parametric.fit(table).law, below=1e20)
    assert found is not None
    assert (found.fitted, found.predicted) == (136, 104)
    assert found.error == pytest.approx(0.0089, abs=5e-5)
    np.testing.assert_allclose([found.a_before, found.a_after], [0.602, 0.514], atol=5e-4)


def test_small_models_predict_a_large_one():
    found = parametric.fit(_olmo())
    numbers = [found.objective, found.law.alpha, found.law.beta, found.law.E]
    np.testing.assert_allclose(numbers, [3.29986e-5, 0.10360, 0.16197, 0.93438], rtol=1e-4)
    assert float(found.law.loss(13_202_396_160, 5_000_088_518_656)) == pytest.approx(2.34439, rel=2e-6)
    assert [warned.code for warned in found.warnings] == ["ill-conditioned"]


def test_derivatives_are_those_of_differences():
    table = synthetic.study(TRUTH, SIZES, TOKENS, noise=0.02)
    problem = Terms.of(table)
    weights = bootstrap.counts(bootstrap.draws(25, 1, seed=0))
    theta = problem.theta(dataclasses.replace(TRUTH, E=1.5, alpha=0.36))

    def at(point):
        return newton.derivatives(problem, point[None], weights)

    found = at(theta)
    slope = np.array(approx_fprime(theta, lambda point: at(point).objective[0], 1e-7))
    np.testing.assert_allclose(found.gradient[0], slope, rtol=1e-4, atol=1e-8)
    # All errors here are above delta or below it at both ends of the difference, so that the Hessian is one.
    hessian = np.array(approx_fprime(theta, lambda point: at(point).gradient[0], 1e-8))
    np.testing.assert_allclose(found.hessian[0], hessian, rtol=1e-3, atol=1e-5)


def test_resamples_solved_together_are_those_of_a_slow_solver(epoch_240, fitted):
    law = fitted.law
    drawn = bootstrap.draws(240, 200, seed=3)
    found = METHODS["chinchilla"].resampled(epoch_240, [law], bootstrap.counts(drawn))
    problem = Terms.of(epoch_240)
    for k in (0, 77, 199):
        n, d, y = problem.n[drawn[k]], problem.d[drawn[k]], problem.y[drawn[k]]
        slow = least_squares(
            lambda at, n=n, d=d, y=y: np.log(at[0] + at[1] * np.exp(-at[3] * n) + at[2] * np.exp(-at[4] * d)) - y,
            problem.theta(TRUTH),
            bounds=(problem.lower, problem.upper),
            loss="huber",
            f_scale=DELTA,
            x_scale="jac",
            ftol=1e-14,
            xtol=1e-14,
            gtol=1e-14,
            max_nfev=5000,
        )
        np.testing.assert_allclose(problem.theta(found[k]), slow.x, rtol=1e-4)


@settings(max_examples=8)
@given(
    st.floats(0.5, 3),
    st.floats(0.15, 0.6),
    st.floats(0.15, 0.6),
    st.floats(0.1, 0.6),
    st.floats(0.1, 0.6),
    st.sampled_from([1.0, 1e-3, 1e6]),
)
def test_the_truth_comes_back_whatever_the_units(energy, alpha, beta, large, small, unit):
    truth = Chinchilla(energy, large * 1e9**alpha, small * 1e10**beta, alpha, beta)
    table = synthetic.study(truth, SIZES, TOKENS)
    scaled = dataclasses.replace(table, params=table.params * unit, tokens=table.tokens / unit, loss=table.loss / unit)
    found = parametric.fit(scaled).law
    np.testing.assert_allclose([found.E * unit, found.alpha, found.beta], [energy, alpha, beta], rtol=1e-5)


@given(st.floats(18, 26), st.floats(0.1, 0.6), st.floats(0.1, 0.6))
def test_the_optimum_is_that_of_a_search(log_flops, alpha, beta):
    law = Chinchilla(1.7, 400.0, 900.0, alpha, beta)
    flops = 10.0**log_flops
    best = law.optimum(flops)
    assert 6 * best.params * best.tokens == pytest.approx(flops)
    searched = minimize_scalar(
        lambda log_n: float(law.loss(np.exp(log_n), flops / 6 / np.exp(log_n))),
        bracket=(np.log(best.params) - 2, np.log(best.params) + 1),
    )
    assert np.exp(searched.x) == pytest.approx(best.params, rel=1e-3)
    further = law.optimum(10 * flops)
    assert np.log10(further.params / best.params) == pytest.approx(law.a)


def test_a_minimum_is_no_worse_than_anything_near():
    table = synthetic.study(TRUTH, SIZES, TOKENS, noise=0.01)
    problem, found = Terms.of(table), parametric.fit(table)
    theta, ones = problem.theta(found.law), np.ones((1, 25))
    near = theta * (1 + np.array(list(itertools.product([-1e-3, 0, 1e-3], repeat=5))))
    values = newton.objective(problem, near, np.broadcast_to(ones, (243, 25)))
    assert found.objective == pytest.approx(values.min(), rel=1e-12)


@pytest.mark.parametrize(
    ("sizes", "tokens", "said"),
    [
        ([1e8, 3e8], [1e9, 4e9, 1e10], "runs of three sizes or more; 2 here"),
        ([1e8], np.geomspace(1e9, 1e11, 9), "runs of three sizes or more; 1 here"),
        (np.geomspace(1e8, 1e9, 9), [1e9], "runs of three numbers of tokens or more; 1 here"),
        ([1e8], [1e9], "it needs runs of 6 sizes and tokens; 1 here"),
    ],
)
def test_a_table_that_says_nothing_is_refused(sizes, tokens, said):
    table = synthetic.study(TRUTH, np.asarray(sizes)[:, None], np.asarray(tokens), noise=0.01)
    with pytest.raises(UserError, match=said):
        parametric.fit(table)


def test_one_ratio_is_refused():
    sizes = np.geomspace(1e8, 1e10, 12)
    with pytest.raises(UserError, match="every run reads 20 tokens per parameter"):
        parametric.fit(synthetic.study(TRUTH, sizes, 20 * sizes, noise=0.01))


@pytest.mark.parametrize("column", ["params", "tokens"])
def test_losses_that_do_not_fall_are_refused(column):
    table = synthetic.study(TRUTH, SIZES, TOKENS, noise=0.001)
    rising = dataclasses.replace(table, **{column: getattr(table, column)[::-1]})
    what = {"params": "size", "tokens": "number of tokens"}[column]
    with pytest.raises(UserError, match=f"do not fall with the {what}"):
        parametric.fit(rising)
