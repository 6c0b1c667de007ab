"""Matrices, of which `make test` runs a few cases and `make test-all` the others."""

from collections.abc import Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """Returns the cases as parameters, all but `kept` marked exhaustive; a tuple is a case of several parameters."""
    cases = list(cases)
    assert all(case in cases for case in kept)
    return [case if case in kept else _exhaustive(*(case if isinstance(case, tuple) else (case,))) for case in cases]


def _exhaustive(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.exhaustive)
