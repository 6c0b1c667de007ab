"""Files that grow with a run: on a disk without room, and in parts in an object store."""

import errno
import os
import subprocess
import sys
import time

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from transformer.training import uploaded


@pytest.fixture
def path(store):
    folder = epath.Path("gs://bucket/run")
    yield folder / "metrics.jsonl"
    folder.rmtree(missing_ok=True)


@pytest.fixture
def sent(monkeypatch):
    """The bytes of each upload."""
    sizes = []
    kind = type(epath.Path("gs://bucket"))
    write = kind.write_bytes

    def counted(self, content):
        sizes.append(len(content))
        return write(self, content)

    monkeypatch.setattr(kind, "write_bytes", counted)
    return sizes


def test_a_flush_uploads_a_part_at_most(path, sent, monkeypatch):
    monkeypatch.setattr(uploaded, "PART_BYTES", 1000)
    file, row = uploaded.Uploaded(path), b"x" * 99 + b"\n"
    for _ in range(200):
        file.write(row)
        file.flush()
        file.flush()  # nothing is new
        assert len(file._part) < 1000
    assert len(sent) == 200
    assert max(sent) <= 1000
    assert sum(sent) <= 200 * 1000 / 1.5  # whole at each flush: 200 * 200 / 2 rows, 2 MB
    assert uploaded.read(path) == 200 * row  # while it grows
    file.close()
    assert path.read_bytes() == uploaded.read(path) == 200 * row
    assert [place.name for place in path.parent.iterdir()] == ["metrics.jsonl"]


def test_what_was_flushed_outlives_a_kill(path, monkeypatch):
    monkeypatch.setattr(uploaded, "PART_BYTES", 10)
    for turn in range(3):  # each opens what the one before left, without a close
        file = uploaded.Uploaded(path)
        for number in range(4):
            file.write(f"{turn}{number}aaaaaa\n".encode())
            file.flush()
        file.write(b"lost")
    lines = [f"{turn}{number}aaaaaa" for turn in range(3) for number in range(4)]
    assert uploaded.read(path).decode().splitlines() == lines


@given(rows=st.lists(st.tuples(st.binary(min_size=1, max_size=30), st.booleans(), st.booleans()), max_size=12))
def test_reads_what_was_written_wherever_it_was_cut(store, rows):
    """Whatever the writes, the flushes and the restarts: the parts join to what was written."""
    path = epath.Path("gs://bucket/any/file")
    if path.parent.exists():
        path.parent.rmtree()
    before, uploaded.PART_BYTES = uploaded.PART_BYTES, 16
    try:
        file, written = uploaded.Uploaded(path), b""
        for content, flush, restart in rows:
            file.write(content)
            written += content
            if flush or restart:
                file.flush()
                assert uploaded.read(path) == written
            if restart:
                file = uploaded.Uploaded(path)
        file.close()
        assert not written or path.read_bytes() == written
    finally:
        uploaded.PART_BYTES = before


def test_leftovers_are_no_parts(path, monkeypatch):
    """A kill came between the joining, or the dropping of rows, and the removal of the parts."""
    path.write_bytes(b"0123456789")
    (path.parent / "metrics.jsonl.part-000000000005").write_bytes(b"56789")
    (path.parent / "metrics.jsonl.part-000000000012").write_bytes(b"cd")
    assert uploaded.read(path) == b"0123456789"
    uploaded.Uploaded(path).close()
    assert [place.name for place in path.parent.iterdir()] == ["metrics.jsonl"]
    uploaded.replace(path, b"new")
    assert uploaded.read(path) == b"new"


def test_a_store_that_fails_is_asked_again(path, monkeypatch, capsys):
    file = uploaded.Uploaded(path)
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "write_bytes", lambda *_: (_ for _ in ()).throw(ConnectionError("no route")))
        for number in range(3):
            file.write(b"%d\n" % number)
            file.flush()
    file.close()
    assert path.read_bytes() == b"0\n1\n2\n"
    assert capsys.readouterr().err.count("could not be written: no route") == 1


def test_a_local_file_waits_for_room(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"before\n")
    file = uploaded.Appended(path)
    file.write(b"first\n")
    assert path.read_bytes() == b"before\nfirst\n"  # without a flush
    real = file._file
    full = _Full(real)
    file._file = full
    file.write(b"second\n")
    file.write(b"third\n")
    assert path.read_bytes() == b"before\nfirst\nsec"  # what there was room for
    file._file = real
    file.write(b"fourth\n")
    file.close()
    assert path.read_bytes() == b"before\nfirst\nsecond\nthird\nfourth\n"
    assert capsys.readouterr().err.count("metrics.jsonl could not be written: No space left on device") == 1


def test_rows_that_never_find_room_are_said(tmp_path, capsys):
    file = uploaded.Appended(tmp_path / "no such folder" / "metrics.jsonl")
    file.write(b"12345")
    file.close()
    assert "the last 5 bytes are lost" in capsys.readouterr().err


def test_tensorboard_files_are_parts_of_one_folder(path, monkeypatch):
    """TensorBoard reads the event files of a folder in the order of their names; a part's begins with a record."""
    from tensorboardX.proto.event_pb2 import Event

    monkeypatch.setattr(uploaded, "PART_BYTES", 200)
    folder = path.parent / "tensorboard"
    board = uploaded.event_writer(folder, flush_secs=0.05)
    for step in range(20):
        board.add_scalar("loss", 0.5, step)
        time.sleep(0.06)
    board.close()
    files = sorted(folder.iterdir(), key=lambda place: place.name)
    assert len(files) > 1
    assert all("tfevents" in place.name for place in files)
    steps = []
    for place in files:
        content = place.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            steps += [Event.FromString(content[12 : 12 + size]).step]
            content = content[16 + size :]
    assert steps == [0, *range(20)]


def test_what_a_run_imports_leaves_pytorch_to_those_who_ask_for_it(tmp_path):
    program = (
        "import sys; from etils import epath; from transformer.training import loop, uploaded; "
        f"uploaded.event_writer(epath.Path({str(tmp_path / 'board')!r})).close(); "
        "print({'torch', 'tensorflow', 'transformers'} & {*sys.modules}); import torch; print(torch.ones(2).sum())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\ntensor(2.)\n"


class _Full:
    """A file with room for three bytes."""

    def __init__(self, file):
        self._file, self._room = file, 3

    def write(self, content):
        if not self._room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written, self._room = self._file.write(content[: self._room]), 0
        return written
