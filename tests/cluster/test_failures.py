"""The record of a failure: of the first in a start, of runs that began, and of no stop that a person wanted."""

import json

import pytest
from etils import epath

from transformer.cluster import failures

FAILURE = {
    "message": "why",
    "exit_code": 2,
    "process": 1,
    "host": "b",
    "phase": "save",
    "step": 7,
    "traceback": "Traceback",
    "at_once": True,
}


def begun(folder, *, others=False):
    failures.into(epath.Path(folder), lambda: others)


def test_the_first_failure_of_a_start_stays_and_the_next_start_takes_it(tmp_path):
    with failures.none_yet():
        assert failures.write(FAILURE) is None
        assert not list(tmp_path.iterdir())  # the run has not begun
        begun(tmp_path)
        assert failures.write(FAILURE)["message"] == "why"
        # So all who find the leading process silent end with one line, though no service carries it.
        assert failures.write(FAILURE | {"message": "a consequence", "exit_code": 124}).items() >= FAILURE.items()
    record = json.loads((tmp_path / failures.NAME).read_text())
    assert record.pop("time")
    assert record == {name: FAILURE[name] for name in FAILURE if name != "at_once"}
    line = failures.taken_from(epath.Path(tmp_path))
    assert line.startswith("the start before failed on b in phase save (update 7), 2")
    assert line.endswith(": why")
    assert not list(tmp_path.iterdir())
    assert failures.taken_from(epath.Path(tmp_path)) is None


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_a_damaged_record_is_removed(content, tmp_path):
    (tmp_path / failures.NAME).write_text(content)
    assert failures.taken_from(epath.Path(tmp_path)) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [75, 143])
def test_a_stop_is_no_failure(code, tmp_path):
    with failures.none_yet():
        begun(tmp_path)
        failures.write(FAILURE | {"exit_code": code})
        failures.write(FAILURE, error=KeyboardInterrupt())
        begun(tmp_path, others=True)  # which have the run by now
        failures.write(FAILURE)
    assert not list(tmp_path.iterdir())


def test_the_error_that_ended_a_run_is_its_failure_and_a_later_one_is_not(tmp_path):
    own = ValueError("in the run")

    @failures.none_yet()
    def run():
        begun(tmp_path)
        raise own

    with pytest.raises(ValueError, match="in the run"):
        run()
    failures.write(FAILURE, error=ValueError("of another command"))
    assert not list(tmp_path.iterdir())
    failures.write(FAILURE, error=own)
    assert [path.name for path in tmp_path.iterdir()] == [failures.NAME]


def test_the_stacks_of_all_threads(tmp_path):
    with failures.none_yet():
        begun(tmp_path)
        assert failures.write_stacks(3, "why") == str(tmp_path / "stacks")
    text = (tmp_path / "stacks" / "process-3.txt").read_text()
    assert text.startswith("why\nthreads: ")
    assert "test_the_stacks_of_all_threads" in text
