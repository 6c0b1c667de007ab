"""Goodput: whatever happens to a run, every second of it has one category; and real kills cost what they cost."""

import dataclasses
import json
import math
import random
import signal
import time
from unittest import mock

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import processes
from tests.training.runs import stopped, train
from tools import crash
from transformer.cluster import phases
from transformer.cluster.phases import PHASES
from transformer.training import goodput, ledger
from transformer.training.device_clock import DeviceClock
from transformer.training.goodput import CATEGORIES, Start, account
from transformer.training.ledger import Ledger

few_seconds = st.floats(0, 1e7, allow_subnormal=False)


@st.composite
def starts(draw):
    """Starts of hosts whose clocks disagree, which go on from anywhere."""
    made = []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        seconds = {name: draw(few_seconds) for name in PHASES}
        first = draw(st.none() | st.integers(0, 50))
        step = (first or 0) + draw(st.integers(0, 50))
        spent = sorted(draw(st.lists(st.floats(0, seconds["step"]), max_size=4)))
        at = sorted(draw(st.lists(st.integers(first or 0, step), min_size=len(spent), max_size=len(spent))))
        saves = tuple(zip(at, spent, strict=True))
        made.append(Start(number, draw(st.floats(0, 4e9)), math.fsum(seconds.values()), seconds, first, step, saves))
    return made


@given(starts())
def test_the_shares_sum_to_one_and_none_is_negative(made):
    found = account(made)
    assert set(found.seconds) == set(CATEGORIES)
    for part in found.parts:
        assert min(part.seconds.values()) >= 0
    alive = math.fsum(start.elapsed for start in made)
    assert found.wall == pytest.approx(alive + found.seconds["down"], rel=1e-12)
    assert math.fsum(found.shares.values()) == pytest.approx(1 if found.wall else 0, rel=1e-12)
    assert 0 <= found.goodput <= 1
    assert found.line().startswith("goodput ")
    assert json.loads(json.dumps(found.scalars())) == found.scalars()


def test_the_account_reads_well():
    seconds = dict.fromkeys(PHASES, 0.0) | {"step": 1203.0, "compile": 41.2, "data": 0.02, "save": 8.36}
    made = Start(1, 1e9, sum(seconds.values()), seconds, first=0, step=100, saves=((60, 703.0),))
    assert account([made]).line() == "goodput 96.0%: steps 1,203 s of 1,253 s; compiling 41 s, saving 8.4 s"
    later = dataclasses.replace(made, began=made.last_sign + 20, first=60)
    assert account([made, later]).line() == (
        "goodput 75.5%: steps 1,906 s of 2,525 s in 2 starts; redone 500 s, compiling 82 s, down 20 s, saving 17 s"
    )


class Simulated:
    """A clock that only moves when it is told to, and devices that compute steps beside it."""

    def __init__(self):
        self.now = self.done = 0.0
        self.step = 0

    def monotonic(self):
        return self.now

    def time(self):
        return 1e9 + self.now

    def idle(self, began, ended):
        return max(ended - max(began, self.done), 0.0)


length = st.floats(0.125, 8)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_made_up_run_is_accounted_for_to_the_second(data):
    """Simulates starts that are killed anywhere, beside their own account of what was lost."""
    clock, made, down = Simulated(), [], 0.0
    lasting, steps_at = {}, []  # update -> the seconds of steps that made it last; all seconds of steps
    with (
        mock.patch.object(phases, "time", clock),
        mock.patch.object(ledger, "time", clock),
    ):
        saved = 0
        for _ in range(data.draw(st.integers(1, 4))):
            phases.enter("start")
            with Ledger() as kept:
                clock.now += data.draw(length)
                with phases.phase("restore"):
                    clock.now += data.draw(length)
                clock.step, clock.done = saved, -math.inf
                kept.trains(clock)
                before = saved
                spent = 0.0
                for _ in range(data.draw(st.integers(0, 6))):
                    phases.enter("data")
                    waited = data.draw(length)
                    overlapped = min(max(clock.done - clock.now, 0.0), waited)
                    clock.now += waited
                    spent += overlapped
                    phases.enter("step")
                    clock.step += 1
                    clock.now += (seconds := data.draw(length))
                    clock.done = clock.now + data.draw(st.floats(0, 4))
                    spent += seconds
                    lasting[clock.step] = spent
                    steps_at.append(seconds + overlapped)
                    spent = 0.0
                    if data.draw(st.booleans()):
                        with phases.phase("save"):
                            clock.now += data.draw(length)
                            saved = clock.step if data.draw(st.booleans()) else saved
                phases.enter("step")
                made.append(kept.start())  # as it was written before the kill
                assert made[-1].elapsed == pytest.approx(clock.now - made[-1].began + 1e9)
            assert clock.step >= before
            gap = data.draw(length)
            clock.now += gap
            down += gap
        with Ledger() as kept:
            clock.step, clock.done = saved, -math.inf
            kept.trains(clock)
            made.append(kept.start())
    found = account(made)
    assert found.wall == pytest.approx(made[-1].last_sign - made[0].began, rel=1e-6)
    assert found.seconds["down"] == pytest.approx(down, rel=1e-6)
    productive = math.fsum(seconds for step, seconds in lasting.items() if step <= saved)
    assert found.seconds["step"] == pytest.approx(productive, rel=1e-6)
    assert found.seconds["redone"] == pytest.approx(math.fsum(steps_at) - productive, rel=1e-6, abs=1e-6)


def test_a_wait_for_data_counts_while_the_devices_have_nothing_to_do():
    class Output:
        def __init__(self, seconds):
            self.seconds = seconds

        def block_until_ready(self):
            time.sleep(self.seconds)

    with DeviceClock() as clock:
        for step in (1, 2, 3):
            phases.enter("data")
            time.sleep(0.1)
            phases.enter("step")
            clock.dispatches()
            clock.dispatched(step, Output(0.06))
        tally = clock.take()
    assert tally.steps == 2
    assert tally.seconds == pytest.approx(0.2, abs=0.05)
    assert tally.late == pytest.approx(0.08, abs=0.05)
    assert tally.data == pytest.approx(tally.late, abs=0.01)


@pytest.mark.exhaustive
def test_a_stopped_run_accounts_for_both_of_its_starts(experiment, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    stopped(experiment, folder, monkeypatch, after=6)
    [first] = goodput.read(epath.Path(folder / "goodput"))
    assert (first.first, first.step, first.ended) == (0, first.saves[-1][0], True)
    said = []
    with monkeypatch.context() as patch:
        patch.setattr("tests.training.runs.quiet", said.append)
        train(experiment, folder)
    both = goodput.read(epath.Path(folder / "goodput"))
    assert [start.first for start in both] == [0, first.step]
    assert both[1].step == 12
    found = account(both)
    assert found.seconds["redone"] < 0.05  # what came after the last save of the first
    assert found.wall == pytest.approx(both[1].last_sign - both[0].began, abs=0.05)
    assert found.seconds["compile"] > 0
    assert found.seconds["step"] > 0
    board = b"".join(path.read_bytes() for path in (folder / "tensorboard").iterdir())
    assert b"goodput/share" in board
    assert [line for line in said if line.startswith("goodput ")] == [said[-1]]
    assert "in 2 starts; " in said[-1]


def test_what_cannot_be_written_or_read_ends_nothing(experiment, tmp_path, capfd):
    def full(path, content):
        raise OSError(28, "No space left on device")

    with mock.patch.object(ledger, "write_atomically", full):
        train(experiment, tmp_path / "run")
    assert capfd.readouterr().err.count("goodput/1.json could not be written: No space left on device") == 1
    folder = epath.Path(tmp_path / "damaged")
    folder.mkdir()
    whole = Start(2, 1e9, 8.0, dict.fromkeys(PHASES, 1.0), 0, 7, ((5, 0.5),))
    (folder / "2.json").write_text(json.dumps(whole.to_json()))
    for number, content in enumerate([b"", b"{", b"[]", b'{"seconds": 1}', b"\xff", b"[" * 9000], start=3):
        (folder / f"{number}.json").write_bytes(content)
    for number, wrong in enumerate(
        [{"began": "x"}, {"seconds": {"step": -1}}, {"saves": [1]}, {"first": "a"}], start=20
    ):
        (folder / f"{number}.json").write_text(json.dumps(whole.to_json() | wrong))
    (folder / ".2.json.partial").write_text("{")
    assert goodput.read(folder) == [dataclasses.replace(whole, saves=[(5, 0.5)])]
    assert goodput.new_place(folder).name == "24.json"


@pytest.mark.exhaustive
def test_three_kills_cost_what_they_cost(tmp_path):
    """Kills a run three times, at any moment; its own notes of each step, and the killer's clock, are the truth."""
    crash.write_corpus(tmp_path / "corpus")
    program = str(processes.ROOT / "tests" / "training" / "paced_run.py")
    notes, rng, spawned, killed, steps = tmp_path / "steps.txt", random.Random(time.time_ns()), [], [], []
    for kill in (True, True, True, False):
        notes.write_text("")
        spawned.append(time.time())
        with processes.started([program, str(tmp_path)], 1) as [process]:
            wanted = rng.randint(1, 30)  # steps, of which every 15th is saved
            while kill and notes.read_text().count("\n") < wanted:
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
            if kill:
                time.sleep(rng.uniform(0, 0.1))
                process.send_signal(signal.SIGKILL)
                killed.append(time.time())
            [one] = processes.ended([process])
            assert one.code == (-signal.SIGKILL if kill else 0), one.err
        steps.append({int(step): float(at) for step, at in map(str.split, notes.read_text().splitlines())})
    made = goodput.read(epath.Path(tmp_path / "run" / "goodput"))
    assert [start.ended for start in made] == [False, False, False, True]
    assert [start.began for start in made] == pytest.approx(spawned, abs=0.5)
    found = account(made)
    assert math.fsum(found.shares.values()) == pytest.approx(1)
    assert found.wall == pytest.approx(float((tmp_path / "end.txt").read_text()) - spawned[0], abs=1)
    for number, kill in enumerate(killed):
        resumed = made[number + 1].first
        kept = max((at for step, at in steps[number].items() if step <= resumed), default=min(steps[number].values()))
        told = found.parts[number].seconds["redone"] + found.parts[number + 1].seconds["down"]
        lost = spawned[number + 1] - kept
        assert kill > kept
        # What came between the steps that were lost has a name of its own.
        between = sum(found.parts[number].seconds[name] for name in ("save", "data"))
        assert lost - between - 0.5 <= told <= lost + 0.5, (number, told, lost, between)
    assert found.seconds["step"] >= 120 * 0.05
