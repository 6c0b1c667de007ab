import pytest

from tests.checkpoint import tiny


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run folder with the checkpoints 1, 2 and 3, written by one device; read it only."""
    folder = tmp_path_factory.mktemp("run")
    return folder, tiny.make_run(folder)
