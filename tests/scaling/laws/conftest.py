"""tools/scaling.py called as people call it, and a table to call it on."""

import pytest

from tests.tool_calls import caller, refuser
from tools import scaling as tool


@pytest.fixture
def call(capsys):
    return caller(tool.main, capsys)


@pytest.fixture
def refused(call):
    return refuser(call)


@pytest.fixture
def write(tmp_path):
    """Writes the text or the bytes of a table, and returns its path."""

    def write(text):
        path = tmp_path / "runs.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
