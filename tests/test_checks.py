"""Rules of fields: the law of each, over numbers, and how what breaks one is said."""

import dataclasses
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformer import checks
from transformer.checks import FieldError


@dataclasses.dataclass(frozen=True)
class Config:
    number: float | None = 1.0
    other_number: int = 6
    name: str = "a"


def holds(check, *args) -> bool:
    try:
        check(*args)
    except FieldError:
        return False
    return True


@given(value=st.floats(), bound=st.floats(allow_nan=False))
def test_bounds_are_those_of_arithmetic_and_nan_keeps_none(value, bound):
    config = Config(value)
    assert holds(checks.at_least, config, bound, "number") == (value >= bound)
    assert holds(checks.above, config, bound, "number") == (value > bound)


@given(
    value=st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0, 1.5, math.nan, math.inf]),
    ends=st.sampled_from(["[)", "(]", "()", "[]"]),
)
def test_an_interval_has_the_ends_that_are_square(value, ends):
    inside = 0 < value < 0.5 or (value == 0 and ends[0] == "[") or (value == 0.5 and ends[1] == "]")
    assert holds(checks.within, Config(value), f"{ends[0]}0, 0.5{ends[1]}", "number") == inside


def test_none_breaks_no_rule_of_numbers():
    config = Config(None)
    checks.at_least(config, 1, "number")
    checks.above(config, 1, "number")
    checks.within(config, "[0, 1)", "number")


@pytest.mark.parametrize(
    ("check", "args", "message"),
    [
        (checks.at_least, (2, "number"), "number is 1.0: it must be at least 2"),
        (checks.above, (1, "number"), "number is 1.0: it must be above 1"),
        (checks.within, ("[0, 1)", "number"), "number is 1.0: it must lie in [0, 1)"),
        (checks.choice, ("name", {"b": 1, "c": 2}), "unknown name 'a'; choose from: b, c"),
        (checks.divides, ("other_number", "number"), "other_number 6 does not divide number 1.0"),
        (checks.rule, ("number", False, "it must be even"), "number is 1.0: it must be even"),
        (checks.require, (False, "`number` and `train.steps` differ"), "number and train.steps differ"),
    ],
)
def test_what_breaks_a_rule_is_named_and_survives_the_way_to_another_process(check, args, message):
    with pytest.raises(FieldError) as refusal:
        check(Config(), *args)
    assert str(refusal.value) == message
    again = pickle.loads(pickle.dumps(refusal.value))
    assert (str(again), again.config, again.fields) == (message, Config, refusal.value.fields)
    assert all(f"--{name}" in refusal.value.worded(lambda name: f"--{name}") for name in again.fields)
