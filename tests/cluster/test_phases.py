"""Phases: one at a time, and every second belongs to one."""

import pytest

from transformer.cluster import phases


def test_phases_follow_each_other_without_a_gap():
    ended = []
    stop = phases.listen(lambda *each: ended.append(each))
    outer = phases.enter("step")

    @phases.phase("save")
    def fails():
        assert phases.current().name == "save"
        raise ValueError("in a save")

    with pytest.raises(ValueError, match="in a save"):
        fails()
    assert phases.current().name == "step"
    phases.enter(outer)
    stop()
    phases.enter(outer)
    assert [name for name, _, _ in ended[1:]] == ["step", "save", "step"]
    assert [begun for _, begun, _ in ended[1:]] == [end for _, _, end in ended[:-1]]
