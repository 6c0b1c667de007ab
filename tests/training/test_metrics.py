"""metrics.jsonl, damaged: what is whole is kept, and what is lost is said."""

import json

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from tools import plot
from transformer.training.metrics import MetricsLog, read, read_rows
from transformer.training.run import Run

ROWS = [{"step": step, "loss": step / 8, "nll": None} for step in range(1, 7)]
LINES = [json.dumps(row).encode() + b"\n" for row in ROWS]
TROUBLE = [
    b"\0" * 40 + b"\n",
    b"\n",
    b"[1, 2]\n",
    b"\xff\n",
    b"null\n",
    b'{"loss": 1.0}\n',
    b'{"step": "1"}\n',
    b"[" * 5000 + b"\n",
]


@pytest.fixture
def path(tmp_path):
    return epath.Path(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize("trouble", TROUBLE)
def test_a_line_that_is_no_row_takes_no_other_with_it(trouble, path):
    path.write_bytes(b"".join([*LINES[:3], trouble, *LINES[3:]]))
    said = []
    assert read_rows(path, said.append) == ROWS
    assert said == [f"{path}: line 4 is damaged; the 6 whole rows are kept"]


def test_a_byte_in_a_row_takes_that_row_alone(path):
    path.write_bytes(b"".join([*LINES[:3], b"\xff" + LINES[3], *LINES[4:]]))
    assert read(path).rows == ROWS[:3] + ROWS[4:]
    assert read(path).damaged == [4]


def test_a_row_after_a_block_of_zeros_is_whole(path):
    path.write_bytes(b"".join([*LINES[:3], b"\0" * 100, *LINES[3:]]))
    assert (read(path).rows, read(path).damaged) == (ROWS, [4])


def test_a_last_line_that_was_cut_short_is_no_damage(path):
    path.write_bytes(b"".join(LINES) + b'{"step": 7, "lo')
    assert (read(path).rows, read(path).damaged) == (ROWS, [])
    path.write_bytes(b"".join(LINES)[:-1])
    assert (read(path).rows, read(path).damaged) == (ROWS, [])


@given(st.lists(st.tuples(st.integers(0, len(b"".join(LINES))), st.binary(max_size=40)), max_size=4))
def test_whatever_is_inserted_all_other_rows_are_kept(tmp_path_factory, inserted):
    path = epath.Path(tmp_path_factory.getbasetemp() / "metrics.jsonl")
    content, touched = b"".join(LINES), set()
    for place, trouble in sorted(inserted, reverse=True):
        if trouble:
            # Between two rows, what has no end of line of its own joins the row after it.
            touched |= {number for number in range(6) if _begin(number) <= place < _begin(number + 1)}
        content = content[:place] + trouble + content[place:]
    path.write_bytes(content)
    found = read(path).rows
    assert [row for row in found if row in ROWS] == sorted(
        (row for row in found if row in ROWS), key=lambda row: row["step"]
    )
    assert all(row in found for number, row in enumerate(ROWS) if number not in touched)


def _begin(number):
    return sum(map(len, LINES[:number]))


def test_going_on_keeps_the_damaged_file_beside(tmp_path):
    run = Run(tmp_path)
    damaged = b"".join([*LINES[:2], b"\0\0\n", *LINES[2:]])
    for number in (1, 2):
        run.metrics.write_bytes(damaged)
        said = []
        with MetricsLog(run, resume_from=4, evaluates_first=False, report=said.append) as log:
            log.write(5, {"loss": 1.0})
        assert read(run.metrics).damaged == []
        assert [row["step"] for row in read(run.metrics).rows] == [1, 2, 3, 4, 5]
        assert (tmp_path / f"metrics.jsonl.damaged-{number}").read_bytes() == damaged
        assert said == [
            f"{run.metrics}: line 3 is damaged; the 6 whole rows are kept, and the file as it was is "
            f"metrics.jsonl.damaged-{number}"
        ]


def test_a_picture_is_drawn_of_what_is_whole(tmp_path, capfd):
    lines = [json.dumps({"step": step, "nll": 1.0}).encode() + b"\n" for step in range(4)]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join([*lines[:2], b"[1, 2]\n\xff\n", *lines[2:]]))
    trained, _ = plot.read(epath.Path(tmp_path))
    assert [step for step, _ in trained] == [0, 1, 2, 3]
    assert "2 lines (3, 4) are damaged; the 4 whole rows are kept" in capfd.readouterr().err
