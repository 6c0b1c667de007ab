import pytest

from tests.cluster import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The folder of the trainings of `tiny`."""
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="session")
def whole(folder):
    """The losses of one process with one device, which nobody interrupts."""
    return tiny.trained_alone(folder, steps=tiny.STEPS)
