"""When a run saves: the cadence, a save that fails, the last one, and what is said of the cost."""

import numpy as np
import pytest

from transformer.checkpoint import CheckpointConfig, Saved
from transformer.errors import UserError
from transformer.training import saving
from transformer.training.interrupt import StopRequest
from transformer.training.saving import Saver
from transformer.training.state import TrainState

STATE = TrainState(step=np.int32(0), params={}, opt_state={}, skipped=np.int32(0))


class Store:
    """Checkpoints that are saved at once, or fail as told."""

    folder = "RUN/checkpoints"

    def __init__(self, failures=()):
        self.failures, self.asked, self._outcome, self.warning = set(failures), [], None, None

    def save(self, step, **_):
        self.asked.append(step)
        failure = "no room" if len(self.asked) in self.failures else None
        self._outcome = Saved(step, 0.5, 2.0, 10**6, failure, self.warning)

    def outcome(self, *, wait=False):
        outcome, self._outcome = self._outcome, None
        return outcome


class Clock:
    """A clock that a test sets, in place of the time module's."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(saving, "time", clock)
    return clock


class LocalStore(Store):
    """Local checkpoints; those of which a number is in `slow` end only when they are asked for at last."""

    def __init__(self, failures=(), slow=()):
        super().__init__(failures)
        self.slow, self.dropped = set(slow), []

    @property
    def busy(self):
        return len(self.asked) in self.slow and self._outcome is not None

    def outcome(self, *, wait=False):
        return None if self.busy and not wait else super().outcome()

    def drop(self, up_to):
        self.dropped.append(up_to)


def saver(store, said=None, stop=None, first=0, local=None, **config):
    report = said.append if said is not None else print
    return Saver(store, CheckpointConfig(**config), {}, first, stop or StopRequest(), report, local)


def run(one, steps, clock=None, seconds=0.0):
    for step in steps:
        if clock is not None:
            clock.now += seconds
        one.after(step, STATE, None, pause=lambda: None)


def test_saves_every_so_many_steps():
    store = Store()
    run(saver(store, every=3), range(1, 11))
    assert store.asked == [3, 6, 9]


def test_saves_every_so_many_minutes_too(clock):
    store = Store()
    run(saver(store, every=7, every_minutes=1.0), range(1, 17), clock, seconds=20.0)
    assert store.asked == [3, 6, 7, 10, 13, 14]


def test_a_failed_save_is_said_and_tried_again(clock):
    store, said = Store(failures=[2]), []
    run(saver(store, said, every=10), range(1, 30), clock, seconds=15.0)
    assert store.asked == [10, 20, 24]  # a minute after the failure
    assert said == [
        "step 20 could not be saved: no room; the one of step 10 is whole. The training goes on, and tries again"
    ]


def test_what_else_went_wrong_is_said_and_the_checkpoint_counts():
    store, said = Store(), []
    store.warning = "step 1 could not be removed: not allowed"
    saver(store, said).finish(5, STATE, None)
    assert said == ["step 5 is saved, but step 1 could not be removed: not allowed"]


def test_local_saves_come_between_durable_ones(clock):
    store, local = Store(), LocalStore()
    one = saver(store, every=10, local_every=4, local_every_minutes=1.0, local=local)
    run(one, range(1, 21), clock, seconds=20.0)
    assert store.asked == [10, 20]
    assert local.asked == [3, 4, 7, 8, 12, 15, 16, 19]  # a minute after the last save, and every four steps
    one.finish(20, STATE, None)
    assert local.dropped == [10, 20]


def test_minutes_between_local_saves_count_from_a_save_of_either_kind(clock):
    store, local = Store(), LocalStore()
    run(saver(store, every=4, local_every_minutes=1.0, local=local), range(1, 13), clock, seconds=20.0)
    assert (store.asked, local.asked) == ([4, 8, 12], [3, 7, 11])


def test_no_local_save_waits_for_the_one_before():
    store, local = Store(), LocalStore(slow=[1])
    one = saver(store, every=100, local_every=2, local_every_minutes=None, local=local)
    run(one, range(1, 10))
    assert local.asked == [2]
    one.finish(9, STATE, None)
    assert store.asked == [9]


def test_a_failed_local_save_is_said_and_not_tried_before_its_time():
    store, said, local = Store(), [], LocalStore(failures=[1])
    one = saver(store, said, every=100, local_dir="/local", local_every=2, local_every_minutes=None, local=local)
    run(one, range(1, 6))
    assert local.asked == [2, 4]
    assert said == ["step 2 could not be saved in /local: no room. The training goes on"]
    assert store.asked == []


def test_the_last_step_is_saved_durably_where_it_was_saved_locally_alone():
    store = Store()
    saver(store, first=3, local=LocalStore()).finish(5, STATE, None)
    assert store.asked == [5]


def test_the_last_save_waits_for_room():
    class Patient(StopRequest):
        waited = 0

        def wait(self, seconds):
            self.waited += 1
            return False

    store, said, stop = Store(failures=[1, 2]), [], Patient()
    saver(store, said, stop).finish(5, STATE, None)
    assert store.asked == [5, 5, 5]
    assert stop.waited == len(said) == 2


def test_the_last_save_gives_up_in_one_line(monkeypatch):
    class Impatient(StopRequest):
        def wait(self, seconds):
            return True

    with pytest.raises(
        UserError, match=r"step 5 could not be saved; the newest checkpoint is that of step 3: make room"
    ):
        saver(Store(failures=[1]), [], Impatient(), first=3).finish(5, STATE, None)


def test_nothing_is_saved_twice():
    store = Store()
    one = saver(store, first=4, every=2)
    one.finish(4, STATE, None)
    assert store.asked == []
    run(one, [5, 6])
    one.finish(6, STATE, None)
    assert store.asked == [6]


def test_says_what_it_cost_and_how_often_to_save(clock):
    store, said = Store(), []
    one = saver(store, said, every=5, mtbf_hours=2.0)
    run(one, range(1, 11), clock, seconds=3.0)
    one.finish(10, STATE, None)
    one.summary(10)
    # sqrt(2 x 0.5 s x 7,200 s) = 84.9 s, Daly's terms 84.5 s; steps of 3 s
    assert said == [
        "saved 2 times, 1.0 MB each: the training waited 0.50 s, the whole took 2.00 s (medians)",
        "with a failure every 2 hours, save every 85 s (Young and Daly): --checkpoint.every 28",
    ]
