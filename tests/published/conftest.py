"""Published models, in folders that REAL_WEIGHTS names; without it, nothing here is collected. Figures are printed."""

import os
from pathlib import Path

import jax
import pytest

NAMES = ("minilm", "smollm2-135m")
REAL_WEIGHTS = os.environ.get("REAL_WEIGHTS")

collect_ignore_glob = [] if REAL_WEIGHTS else ["test_*.py"]

FIGURES: dict[str, dict[str, str]] = {}
"""Model -> what was measured -> how much."""


def pytest_configure():
    if REAL_WEIGHTS is None:
        return
    root = Path(REAL_WEIGHTS).expanduser()
    lacking = [name for name in NAMES if not (root / name / "config.json").is_file()]
    if lacking:
        raise pytest.UsageError(f"REAL_WEIGHTS: {root} has no Hugging Face folder called {' or '.join(lacking)}")


def pytest_terminal_summary(terminalreporter):
    for model, figures in FIGURES.items():
        for what, figure in figures.items():
            terminalreporter.write_line(f"| {model} | {what} | {figure} |")


@pytest.fixture(autouse=True, scope="package")
def optimized():
    """Compiles as users do: these models are large enough to make up for it."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(params=NAMES, scope="package")
def name(request):
    """A published model."""
    return request.param


@pytest.fixture(scope="package")
def source(name):
    """Its folder as it was published."""
    return Path(str(REAL_WEIGHTS)).expanduser() / name


@pytest.fixture(scope="package")
def run(name, source, tmp_path_factory):
    """A run that it was imported into."""
    return converted("import", source, tmp_path_factory.mktemp(name) / "run")


@pytest.fixture(scope="package")
def exported(name, run, tmp_path_factory):
    """A folder that the run was exported to."""
    return converted("export", run, tmp_path_factory.mktemp(name) / "out")


def converted(command, source, target):
    from tools import convert

    convert.main([command, str(source), str(target)])
    return target


@pytest.fixture
def figures(name):
    """What was measured of the model."""
    return FIGURES.setdefault(name, {})
