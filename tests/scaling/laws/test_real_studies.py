"""The committed studies say what docs/scaling-study.md says of them: what was fitted, and what was then measured."""

from pathlib import Path

import numpy as np
import pytest

from transformer.scaling.laws import isoflop, parametric
from transformer.scaling.laws.reading import Columns, read

STUDIES = Path(__file__).parents[3] / "docs" / "studies"


@pytest.mark.parametrize(
    ("name", "held_out", "a", "params", "worst"),
    [("gpt", 8e12, 0.539, 2.43e5, 0.03), ("bert", 3.2e12, 0.414, 8.36e4, 0.0162)],
)
def test_the_held_out_budget_is_predicted(name, held_out, a, params, worst):
    table = read(STUDIES / f"{name}.csv", Columns(tokens="tokens", flops="flops"))
    held = table.flops > 0.9 * held_out
    assert held.sum() == 6
    fitted, dearer = (table.take(np.flatnonzero(rows)) for rows in (~held, held))
    law = parametric.fit(fitted).law
    assert law.parameters()["a"] == pytest.approx(a, abs=5e-4)
    off = dearer.loss / law.predict(dearer) - 1
    assert np.abs(off).max() < worst
    profiles = isoflop.profiles(table)
    assert all(profile.valley.inside for profile in profiles)
    assert len(profiles) == 4
    assert profiles[-1].valley.lowest == pytest.approx(params, rel=0.005)
    assert law.optimum(held_out).params == pytest.approx(params, rel=0.01)
