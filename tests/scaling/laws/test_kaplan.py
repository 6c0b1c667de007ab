"""Kaplan's laws: the published constants come back, the optimum is the lowest there is, the paper's own rule holds."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.exhaustive import few
from transformer.errors import UserError
from transformer.scaling.laws import kaplan, synthetic
from transformer.scaling.laws.kaplan import Kaplan, KaplanParams, KaplanTokens

JOINT = Kaplan(alpha_N=0.076, alpha_D=0.103, N_c=6.4e13, D_c=1.8e13)
"""Table 2."""
SIZES, TOKENS = np.geomspace(1e6, 1e9, 6), np.geomspace(2e7, 2e10, 5)


def test_the_published_joint_law_comes_back():
    found = kaplan.fit(synthetic.study(JOINT, SIZES[:, None], TOKENS))
    assert found.law.parameters() == pytest.approx(JOINT.parameters(), rel=1e-8)
    assert found.objective < 1e-20
    assert found.warnings == ()
    assert found.rows == 30


@pytest.mark.exhaustive
@given(alpha_n=st.floats(0.04, 0.4), alpha_d=st.floats(0.04, 0.4), middle=st.floats(1, 6), share=st.floats(0.2, 0.8))
def test_any_joint_law_comes_back(alpha_n, alpha_d, middle, share):
    """Both terms matter: in the middle of the table the loss is `middle`, and the size's share of it is `share`."""
    bracket, ratio = middle ** (1 / alpha_d), alpha_n / alpha_d
    size, tokens = np.exp(np.log(SIZES).mean()), np.exp(np.log(TOKENS).mean())
    truth = Kaplan(alpha_n, alpha_d, size * (share * bracket) ** (1 / ratio), tokens * (1 - share) * bracket)
    found = kaplan.fit(synthetic.study(truth, SIZES[:, None], TOKENS))
    assert found.law.parameters() == pytest.approx(truth.parameters(), rel=1e-5)
    assert found.objective < 1e-15


def test_a_scale_beyond_any_float_is_refused():
    """Noise alone: alpha_N goes to its bound and N_c to 1e680; cut to a float, that law would be another."""
    rng = np.random.default_rng(2)
    flat = synthetic.study(JOINT, SIZES[:, None], TOKENS)
    refused = 0
    for _ in range(4):
        table = dataclasses.replace(flat, loss=2 * (1 + 1e-4 * rng.standard_normal(30)))
        try:
            law = kaplan.fit(table).law
        except UserError as error:
            assert "--law kaplan-d fits the tokens alone" in str(error)  # noqa: PT017
            refused += 1
        else:
            assert np.max(np.abs(np.log(law.predict(table) / table.loss))) < 1e-3
    assert refused


def test_a_term_that_no_run_feels_is_said():
    size_alone = dataclasses.replace(JOINT, D_c=1.0)
    found = kaplan.fit(synthetic.study(size_alone, SIZES[:, None], TOKENS))
    assert {"unidentified", "parameter-at-bound", "ill-conditioned"} & {warned.code for warned in found.warnings}
    assert found.law.parameters()["alpha_N"] == pytest.approx(0.076, rel=1e-3)


def test_the_published_laws_of_one_number_come_back():
    size = KaplanParams(alpha_N=0.076, N_c=8.8e13)
    tokens = KaplanTokens(alpha_D=0.095, D_c=5.4e13)
    of_size = kaplan.fit_params(synthetic.study(size, SIZES, 1e12))
    of_tokens = kaplan.fit_tokens(synthetic.study(tokens, 1e12, TOKENS))
    assert of_size.law.parameters() == pytest.approx(size.parameters(), rel=1e-9)
    assert of_tokens.law.parameters() == pytest.approx(tokens.parameters(), rel=1e-9)
    assert np.isnan(of_size.law.optimum(1e20)).all()
    assert np.isnan(of_tokens.law.optimum(1e20)).all()
    assert of_size.law.loss(SIZES[:, None], TOKENS).shape == of_tokens.law.loss(SIZES[:, None], TOKENS).shape == (6, 5)


def test_the_joint_law_goes_over_into_the_others():
    """Equation 1.5 in its two limits."""
    of_size, of_tokens = KaplanParams(0.076, 6.4e13), KaplanTokens(0.103, 1.8e13)
    np.testing.assert_allclose(JOINT.loss(SIZES, 1e40), of_size.loss(SIZES, 1e40), rtol=1e-6)
    np.testing.assert_allclose(JOINT.loss(1e40, TOKENS), of_tokens.loss(1e40, TOKENS), rtol=1e-6)


@pytest.mark.parametrize("params", [1e7, 1e8, 1e9])
def test_the_papers_rule_for_enough_tokens_holds(params):
    """Section 4.2: 5e3 N^0.74 tokens keep overfitting within the noise between seeds, 0.02."""
    enough = 5e3 * params**0.74
    excess = JOINT.loss(params, enough) / JOINT.loss(params, 1e40) - 1
    assert excess == pytest.approx(0.02, abs=0.003)


@pytest.mark.parametrize("flops", [1e15, 1e18, 1e23])
def test_the_optimum_is_the_lowest_there_is(flops):
    best = JOINT.optimum(flops)
    sizes = best.params * np.geomspace(0.01, 100, 40001)
    losses = JOINT.loss(sizes, flops / (6 * sizes))
    assert sizes[np.argmin(losses)] == pytest.approx(best.params, rel=1e-3)
    assert JOINT.optimal_loss(flops) <= losses.min()
    assert 6 * best.params * best.tokens == pytest.approx(flops, rel=1e-12)


@pytest.mark.parametrize("seed", few(range(3), 0))
def test_no_random_start_ends_lower(seed):
    """Each is followed by another solver than the fit's."""
    table = synthetic.study(JOINT, SIZES[:, None], TOKENS, noise=0.01, seed=seed)
    found, problem = kaplan.fit(table), kaplan.Joint.of(table)
    rng = np.random.default_rng(seed)
    starts = rng.uniform([5, 5, 0.03, 0.03], [20, 20, 0.6, 0.6], (20, 4))
    assert found.objective <= min(problem.descend(start)[1] for start in starts) * (1 + 1e-6)
    assert found.convergence.converged
    assert found.law.parameters()["alpha_N"] == pytest.approx(0.076, rel=0.3)


def test_what_a_table_cannot_say_is_refused():
    with pytest.raises(UserError, match="every run has the same size, 1e.08; --law kaplan-d fits the tokens alone"):
        kaplan.fit(synthetic.study(JOINT, 1e8, TOKENS))
    with pytest.raises(UserError, match="every run has the same number of tokens, 1e.10; --law kaplan-n"):
        kaplan.fit(synthetic.study(JOINT, SIZES, 1e10))
    with pytest.raises(UserError, match="kaplan has 4 numbers to fit"):
        kaplan.fit(synthetic.study(JOINT, SIZES[:2, None], TOKENS[:2]))
    with pytest.raises(UserError, match="kaplan-n has 2 numbers to fit: it needs runs of 3 sizes; 2 here"):
        kaplan.fit_params(synthetic.study(JOINT, SIZES[:2], 1e10))
