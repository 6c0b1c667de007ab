"""Lists of arrays, for people: complete, and short."""

from hypothesis import given
from hypothesis import strategies as st

from transformer.transfer.listing import grouped

ALL = sorted(f"{a}/{b}/{c}" for a in ("backbone", "head") for b in ("mlp", "norm", "out") for c in ("bias", "kernel"))
ALL += ["head/scale"]


@given(st.sets(st.sampled_from(ALL), min_size=7))
def test_the_names_stand_for_these_arrays_and_no_others(chosen):
    meant: list[str] = []
    for name in grouped(sorted(chosen), ALL).split(", "):
        module, whole, count = name.partition("/* (")
        under = [path for path in ALL if path.startswith(f"{module}/")] if whole else [name]
        assert len(under) == int(count.rstrip(")") or 1)
        meant += under
    assert sorted(meant) == sorted(chosen)


def test_a_few_are_named_in_full_and_whole_modules_of_many():
    assert grouped(ALL[:6], ALL) == ", ".join(ALL[:6])
    assert grouped(ALL, ALL) == "backbone/* (6), head/* (7)"
    assert grouped([], ALL) == "nothing"
