"""Some cells of the matrix of faults; `python -m tests.cluster.faults` runs all of it."""

import os

import pytest

from tests.cluster.faults import SELECTED, Bench

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("faults"), slower=1.5)  # another worker has the other core


@pytest.mark.parametrize("cell", SELECTED, ids=lambda cell: cell.name.replace(" ", "-"))
def test_nothing_waits_and_nothing_is_lost(bench, cell):
    if cell.fault == "fill" and os.geteuid() != 0:
        pytest.skip("a disk that can be filled is mounted, which needs root")
    outcome = bench.strike(cell)
    assert not outcome.wrong, outcome
