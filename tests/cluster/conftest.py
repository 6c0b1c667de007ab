"""What tests of real jobs share: a folder, and the losses that a job in it should come to."""

import pytest

from tests.cluster import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder of jobs, with one corpus."""
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="session")
def whole(folder):
    """The losses of one process that nobody interrupts."""
    return tiny.trained_alone(folder)
