"""Stragglers: the one that the others wait for is named when that lasts, and nobody is named without a reason."""

import itertools
import json
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import processes
from transformer.training import stragglers
from transformer.training.device_clock import Tally
from transformer.training.stragglers import LASTS, Lasting, Straggler, straggler

SCENES = str(Path(__file__).parent / "straggler_scenes.py")


@given(st.lists(st.floats(0, 10), min_size=2, max_size=9), st.floats(0.01, 10), st.integers(1, 1000))
def test_a_step_without_the_straggler_is_as_long_as_the_others_would_make_it(late, computing, steps):
    """Simulates steps that last as long as the slowest host's wait and the computation that all share."""
    step = max(late) + computing
    tallies = {index: Tally(steps, steps * step, steps * each, 0.0) for index, each in enumerate(late)}
    found = straggler(tallies)
    index = late.index(max(late))
    rest = statistics.median([each for other, each in enumerate(late) if other != index])
    if found is None:
        assert max(late) - rest <= stragglers.SHARE * step * 1.001
        return
    assert (found.index, found.step) == (index, pytest.approx(step))
    assert found.without == pytest.approx(rest + computing)


def test_one_that_has_made_no_step_says_nothing():
    slow, fast = Tally(10, 10.0, 8.0, 8.0), Tally(10, 10.0, 0.0, 0.0)
    assert straggler({0: fast, 1: slow}) == Straggler(1, 1.0, pytest.approx(0.2), 0.8, 0.8)
    assert straggler({0: fast, 1: slow, 2: Tally()}) is None
    assert straggler({1: slow}) is None


@given(st.lists(st.sampled_from([None, 0, 1]), max_size=80))
def test_the_same_one_must_be_the_slowest_all_the_time(looks):
    lasting, named = Lasting(), []
    for number, index in enumerate(looks):
        found = None if index is None else Straggler(index, 1.0, 0.8, 0.2, 0.2)
        if (lasted := lasting.look(30.0 * number, found)) is not None:
            since = number - round(lasted / 30)
            assert lasted >= LASTS
            assert set(looks[since : number + 1]) == {index}
            named.append((since, number))
    for (since, number), (later_since, later) in itertools.pairwise(named):
        assert later_since > number or (later_since == since and later - since >= 2 * (number - since))


@pytest.mark.exhaustive
def test_real_processes_name_the_one_whose_data_are_slow(tmp_path):
    """Two train together: with slow data at the second, slow data at the first, slow Python at the second, nothing."""
    scenes = ["data:1", "data:0", "python:1", "none:0"]
    both = processes.run([SCENES, str(tmp_path), *scenes], 2, timeout=240)
    assert [one.code for one in both] == [0, 0], both[0].err
    said, quiet = (json.loads(one.out.splitlines()[-1]) for one in both)
    assert not any(quiet.values())
    assert not said.pop("none:0")
    for scene, lines in said.items():
        assert lines, scene
        assert lines[-1].startswith(f"process {scene[-1]} of 2 on "), lines
        for_data = float(lines[-1].split(" for their host, ")[1].split(" s of it for data")[0])
        assert (for_data > 0.05) == scene.startswith("data"), lines  # of  s, which a busy machine hides in part
