"""Processes that agree, with real ones: what one raises all raise, and nobody is left waiting."""

import pytest

from tests import processes
from transformer.cluster.agreement import describe

AGREE = """
    import json
    from transformer.cluster.agreement import exchange, from_lead, lead_does, own_index, together
    from transformer.errors import UserError

    assert exchange("numbers", {"own": own_index()}) == [{"own": 0}, {"own": 1}]
    assert [exchange("again", n + own_index()) for n in range(3)] == [[0, 1], [1, 2], [2, 3]]
    assert from_lead("choice", "lead" if own_index() == 0 else "other") == "lead"
    assert lead_does("choice", lambda: ["lead", own_index()]) == ["lead", 0]
    try:
        lead_does("choice", lambda: [][own_index()])
    except (IndexError, UserError) as error:
        assert "list index out of range" in str(error)
    with together("reading"):
        pass
    print("agreed", flush=True)
    with together("writing"):
        if own_index() == 1:
            raise UserError("the disk of this one is full: make room")
    print("not reached")
"""

LATE = """
    import time
    from transformer.cluster.agreement import exchange, own_index

    if own_index() == 1:
        time.sleep(8)
    exchange("the question", 0, deadline=2)
"""

ALONE = """
    import jax, time
    from transformer.cluster.agreement import own_index

    print("begun", flush=True)
    if own_index() == {fails}:
        raise {error}
    time.sleep(60)  # as in a collective
"""


def test_what_one_raises_all_raise():
    for one in processes.run_program(AGREE, 2):
        assert (one.code, one.out) == (2, "agreed\n"), one.err
        assert one.error_lines == ["error: the disk of this one is full: make room"]


@pytest.mark.exhaustive
def test_a_process_that_is_late_is_named():
    for one in processes.run_program(LATE, 2):
        assert one.code == 124, one.err
        assert one.error_lines == ["error: the question: process 1 of 2 did not answer within 2 s"]


@pytest.mark.exhaustive
def test_the_others_follow_one_that_fails_where_nobody_asked():
    for fails in (0, 1):
        body = ALONE.format(fails=fails, error="__import__('transformer.errors').errors.UserError('no such flag')")
        for one in processes.run_program(body, 2, timeout=45):
            assert (one.code, one.out, one.error_lines) == (2, "begun\n", ["error: no such flag"]), one.err


@pytest.mark.exhaustive
def test_the_others_follow_a_bug_and_the_one_that_has_it_shows_it():
    others, own = processes.run_program(ALONE.format(fails=1, error="ZeroDivisionError('a bug')"), 2, timeout=45)
    assert (own.code, others.code) == (1, 1)
    assert "Traceback" in own.err
    assert "Traceback" not in others.err
    [line] = others.error_lines
    assert line.startswith("error: a bug (in process 1 of 2 on ")


def test_what_xla_repeats_for_each_program_in_flight_is_said_once():
    message = describe(RuntimeError(f"INTERNAL: {'Error dispatching: ' * 38}Gloo all-reduce: 2: 2 failed"))["message"]
    assert message.startswith("INTERNAL: Error dispatching: Gloo all-reduce: 2: 2 failed (in ")


def test_alone_nothing_is_asked():
    [one] = processes.run_program(
        """
    from transformer.cluster.agreement import exchange, together
    assert exchange("numbers", 3) == [3]
    with together("reading"):
        raise ValueError("as it is")
""",
        1,
    )
    assert one.code == 1
    assert "ValueError: as it is" in one.err
