"""Published optima with standard deviations: the weighted power law is SciPy's, and its file predicts."""

import numpy as np
import pytest
from scipy.optimize import curve_fit

from tests.tool_calls import caller, refuser
from tools import scaling as tool
from transformer.errors import UserError
from transformer.scaling.laws import pairs
from transformer.scaling.laws.pairs import Pairs

FLOPS = np.geomspace(1e18, 1e22, 7)
DEVIATIONS = np.array([0.3, 0.05, 0.1, 0.02, 0.2, 0.05, 0.1])
GIVEN = Pairs(FLOPS, 0.1 * FLOPS**0.5 * np.exp(DEVIATIONS * np.random.default_rng(0).standard_normal(7)), DEVIATIONS)


def test_the_weighted_power_law_is_scipys():
    found = pairs.fit(GIVEN, 4000)
    x = np.log(FLOPS) - np.log(FLOPS).mean()
    (_, a), covariance = curve_fit(
        lambda x, level, a: level + a * x, x, np.log(GIVEN.params), sigma=DEVIATIONS, absolute_sigma=True
    )
    law = found.fit.law.parameters()
    assert law["a"] == pytest.approx(a, rel=1e-6)
    assert law["b"] == pytest.approx(1 - a, rel=1e-6)
    assert found.bootstrap.standard_errors()["a"] == pytest.approx(covariance[1, 1] ** 0.5, rel=0.05)
    best = found.fit.law.optimum(1e23)
    assert 6 * best.params * best.tokens == pytest.approx(1e23)
    assert found.fit.warnings == ()


def test_deviations_that_are_too_small_and_too_few_pairs_are_said():
    found = pairs.fit(GIVEN._replace(deviations=DEVIATIONS / 10))
    assert [each.code for each in found.fit.warnings] == ["lack-of-fit"]
    with pytest.raises(UserError, match="needs 3 pairs or more; 2 here"):
        pairs.fit(Pairs(GIVEN.flops[:2], GIVEN.params[:2], GIVEN.deviations[:2]))


def test_the_tool_takes_them(capsys, tmp_path):
    call, path, law = caller(tool.main, capsys), tmp_path / "pairs.csv", tmp_path / "law.json"
    rows = zip(FLOPS, GIVEN.params, GIVEN.params * DEVIATIONS, strict=True)
    path.write_text("C,N,sd\n" + "".join(f"{c},{n},{sd}\n" for c, n, sd in rows))
    code, out, _ = call("fit", "--pairs", path, "--json", law)
    assert code == 0
    assert "pairs: 7 pairs, objective" in out
    assert "nan" not in out
    code, out, _ = call("predict", law, "--flops", "1e23")
    assert code == 0
    assert "\n  loss   not known\n" in out
    assert "0 columns 'x' (--pair-columns); its columns are: C, N, sd" in refuser(call)(
        "fit", "--pairs", path, "--pair-columns", "C", "N", "x"
    )


def test_they_are_read_as_tables_of_runs_are(tmp_path):
    """By usual names, with decimal commas and semicolons, rows chosen; units and a wrong deviation are refused."""

    def read(head, rows, *flags, **options):
        lines = [";".join(f"{value:.6f}".replace(".", ",") for value in row) for row in rows]
        (tmp_path / "pairs.csv").write_text("\n".join([head, *lines]) + "\n")
        return pairs.read(tmp_path / "pairs.csv", *flags, **options)

    rows = [*zip(FLOPS, GIVEN.params, DEVIATIONS, [0, 1, 1, 1, 1, 1, 1], strict=True)]
    found = read("Compute;N_opt;sigma;kind", rows, (), True, where=["kind=1"])
    np.testing.assert_allclose(found.params, GIVEN.params[1:], rtol=1e-6)
    np.testing.assert_allclose(found.deviations, DEVIATIONS[1:], rtol=1e-6)
    assert found.columns == ("Compute", "N_opt", "sigma")
    assert found.warned == ()
    with pytest.raises(UserError, match="if it is of log N.*, give --log-deviation"):
        read("C;N;sd;kind", rows)
    with pytest.raises(UserError, match="too wide for log N"):
        read("C;N;sd;kind", [(c, n, n * sd, 1) for c, n, sd, _ in rows], (), True)
    with pytest.raises(UserError, match="N is in another unit"):
        read("C;N;sd;kind", [(c, n / 1e6, sd, 1) for c, n, sd, _ in rows], (), True)
    with pytest.raises(
        UserError, match="no column for C, the budgets, or the standard deviations of N.*--pair-columns"
    ):
        read("a;N;b;kind", rows)
    with pytest.raises(UserError, match="--pair-columns takes three names.*; 2 given: C, N"):
        read("C;N;sd;kind", rows, ("C", "N"))
