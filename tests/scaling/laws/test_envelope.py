"""The envelope: the truth comes back as closely as steps of size allow, with noise too, and from brackets alone."""

import csv
from pathlib import Path

import numpy as np
import pytest

from transformer.errors import UserError
from transformer.scaling.laws import envelope, synthetic
from transformer.scaling.laws.parametric import Chinchilla
from transformer.scaling.laws.table import RunTable

CHINCHILLA = Chinchilla(1.69, 406.4, 410.7, 0.34, 0.28)
EPOCH = Path(__file__).parent / "published" / "chinchilla_epoch.csv"


def _grid(sizes, lengths, noise=0.0, seed=0):
    params = np.geomspace(1e7, 1e10, sizes)[:, None]
    return synthetic.study(CHINCHILLA, params, params * np.geomspace(0.1, 4000, lengths), noise=noise, seed=seed)


def test_many_sizes_give_the_truth_back():
    law = envelope.fit(_grid(80, 40)).law
    assert law.parameters()["a"] == pytest.approx(CHINCHILLA.a, abs=5e-4)
    assert law.parameters()["gamma"] == pytest.approx(CHINCHILLA.alpha * CHINCHILLA.a, rel=1e-3)
    for flops in (1e18, 1e20, 1e22):
        assert law.optimum(flops) == pytest.approx(CHINCHILLA.optimum(flops), rel=0.01)
        assert law.optimal_loss(flops) == pytest.approx(CHINCHILLA.optimal_loss(flops), rel=1e-4)
    params, tokens = law.optimum(1e20)
    assert 6 * params * tokens == pytest.approx(1e20, rel=1e-3)
    assert np.isnan(law.loss(1e8, 1e9))


def test_few_points_a_curve_are_enough():
    few, many = (envelope.fit(_grid(12, lengths)).law for lengths in (8, 60))
    assert few.parameters()["a"] == pytest.approx(many.parameters()["a"], abs=2e-3)


def test_noise_does_not_bend_the_exponent_at_the_ends_of_the_range():
    """Among what smaller and larger sizes bracket alone, noise that points outwards would be missing."""
    exponents = [envelope.fit(_grid(40, 40, 0.002, seed)).law.parameters()["a"] for seed in range(12)]
    assert np.mean(exponents) == pytest.approx(CHINCHILLA.a, abs=0.012)


def test_every_budget_that_counts_has_sizes_to_both_sides():
    found = envelope.optima(_grid(12, 12))
    # Ten times fewer tokens than parameters, and 4,000 times more, are where the curves start and end.
    least, most = np.sqrt(found.flops / 6 / 4000), np.sqrt(found.flops / 6 / 0.1)
    assert np.all(np.maximum(least, 1e7) < found.params / 1.2)
    assert np.all(found.params * 1.2 < np.minimum(most, 1e10))
    assert np.ptp(np.log10(found.flops)) > 4


def test_rows_of_a_size_that_were_read_off_a_figure_are_one_curve():
    table = _grid(12, 12)
    blurred = RunTable(table.params * np.tile([1.002, 0.998], 72), table.tokens, table.loss, table.flops)
    assert len(envelope.curves(blurred)) == 12
    assert envelope.fit(blurred).law.parameters()["a"] == pytest.approx(
        envelope.fit(table).law.parameters()["a"], abs=0.01
    )


def test_final_losses_without_curves_say_nothing():
    sizes = np.geomspace(1e7, 1e9, 6)
    with pytest.raises(UserError, match="envelope needs the loss curves of three sizes or more, .* 0 here"):
        envelope.fit(synthetic.study(CHINCHILLA, sizes, 20 * sizes))
    with pytest.raises(UserError, match="2 here"):
        envelope.fit(synthetic.study(CHINCHILLA, sizes[:2, None], np.geomspace(1e9, 1e11, 5)))


@pytest.mark.parametrize(("least", "most"), [(0.01, 0.1), (1e4, 1e6)])
def test_sizes_that_are_all_too_large_or_too_small_say_nothing(least, most):
    params = np.geomspace(1e8, 1e9, 6)[:, None]
    table = synthetic.study(CHINCHILLA, params, params * np.geomspace(least, most, 6))
    with pytest.raises(UserError, match="no two sizes are ever the best where both smaller and larger ones"):
        envelope.fit(table)


def test_a_fit_that_follows_few_steps_says_so():
    found = envelope.fit(_grid(4, 20))
    assert "few-sizes" in [warned.code for warned in found.warnings]
    assert found.rows == 80


def test_chinchillas_own_runs_give_an_exponent_near_its_own():
    """Hoffmann et al. 2022, table 2: a is 0.50 by this approach, from loss curves; here from runs read off a figure."""
    with EPOCH.open() as file:
        rows = [[float(row[key]) for key in ("params", "flops", "loss")] for row in csv.DictReader(file)]
    params, flops, loss = np.array(rows).T
    found = envelope.fit(RunTable(params, flops / (6 * params), loss, flops))
    assert found.law.parameters()["a"] == pytest.approx(0.50, abs=0.06)
