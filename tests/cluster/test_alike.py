"""Processes that must be alike: the one that differs from most is named, by a job of threads in place of processes."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.cluster import alike
from transformer.cluster.alike import Fingerprint, check_alike
from transformer.errors import UserError


class Job:
    """Threads that are processes 0 to n - 1 of a job, each on a host of its own."""

    def __init__(self, count: int):
        self._barrier, self._answers = threading.Barrier(count, timeout=20), [None] * count
        self._here, self.count, self.sent = threading.local(), count, 0

    def exchange(self, what, value, **_):
        own, text = self.own_index(), json.dumps(value)
        self.sent += len(text)
        self._answers[own] = text
        self._barrier.wait()
        answers = [json.loads(answer) for answer in self._answers]
        self._barrier.wait()
        return answers

    def own_index(self):
        return self._here.index

    def run(self, fingerprints: list[list[Fingerprint]]) -> str | None:
        """Returns the line that all processes raise, or None if none does."""

        def process(index):
            self._here.index = index
            try:
                check_alike("the test", lambda: fingerprints[index])
            except UserError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(self.count) as threads:
            [line] = set(threads.map(process, range(self.count)))
        return line


def line(*fingerprints: list[Fingerprint]) -> tuple[str | None, int]:
    """Returns what a job of such processes raises, and how many bytes they sent."""
    job = Job(len(fingerprints))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alike, "alone", lambda: False)
        patch.setattr(alike, "exchange", job.exchange)
        patch.setattr(alike, "own_index", job.own_index)
        patch.setattr(alike, "together_do", lambda what, action, **_: action())
        patch.setattr(alike, "process_name", lambda index: f"process {index} of {job.count}")
        patch.setattr(alike.socket, "gethostname", lambda: f"host{job.own_index()}")
        return job.run(list(fingerprints)), job.sent


def code(**hashes: str) -> Fingerprint:
    return Fingerprint("code", "runs other code than", {"transformer": str(hashes)}, parts=hashes, part="file")


def flags(**fields) -> Fingerprint:
    return Fingerprint("flags", "was started with other flags than", fields)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 2), min_size=2, max_size=7))
def test_the_first_process_that_is_not_like_most_is_named_with_both_values(seeds):
    said, sent = line(*([flags(seed=seed, steps=3)] for seed in seeds))
    if len(set(seeds)) == 1:
        assert said is None
        assert sent <= 20 * len(seeds)
        return
    most = max(seeds.count(seed) for seed in seeds)
    usual = next(seed for seed in seeds if seeds.count(seed) == most)  # of groups as large, the first process's
    odd = next(index for index, seed in enumerate(seeds) if seed != usual)
    like = seeds.index(usual)
    assert said.startswith(
        f"process {odd} of {len(seeds)} on host{odd} was started with other flags than process {like} on host{like}: "
        f"seed is {seeds[odd]}, not {usual}; "
    )
    assert said.endswith("; all processes of a job must have the same flags")


def test_what_differs_is_named_kind_by_kind():
    most = [code(a="1", b="2", c="3"), flags(seed=0, name="x", rate=None)]
    lacks, newer = [code(a="1", c="4"), flags(seed=0, rate=0.5)], [code(a="1", b="2", c="9"), most[1]]
    said, _ = line(lacks, most, most, newer, most, newer)
    assert said == (
        "process 0 of 6 on host0 runs other code than process 1 on host1: transformer is \"{'a': '1', 'c': '4'}\", not "
        "\"{'a': '1', 'b': '2', 'c': '3'}\", the first file that differs is b (which it lacks); it was started with "
        "other flags than process 1 on host1: name is absent, not x, rate is 0.5, not None; so do processes 3, 5; "
        "all processes of a job must have the same code and flags"
    )


def test_a_message_stays_short():
    said, _ = line([flags(**{f"f{n}": "a b" * 500 for n in range(99)})], [flags(**{f"f{n}": n for n in range(99)})])
    assert "f3 is 3, not 'a b" in said
    assert "f4" not in said
    assert ", 95 more; " in said
    assert len(said) < 1000


def test_a_long_part_is_shown_where_it_differs():
    text = "%5 = stablehlo.constant dense<[{}]> : tensor<4xf32>"
    lines = [{"7": text.format("0.125, " * 200 + end)} for end in ("1.0e-05", "1.0e-06")]
    said, _ = line(
        *([Fingerprint("program", "would compile another program than", {}, each, "line")] for each in lines)
    )
    assert "the first line that differs is 7 (" in said
    assert "1.0e-06]> : tensor<4xf32>', not '" in said
    assert len(said) < 600
    far = [{"7": "0" * 10**6 + end} for end in "12"]
    said, sent = line(
        *([Fingerprint("program", "would compile another program than", {}, each, "line")] for each in far)
    )
    assert "the first line that differs is 7 (after its first 20,000 characters)" in said
    assert sent < 50_000


def test_what_another_version_of_the_code_has_no_fingerprint_of():
    said, _ = line([flags(a=1)], [flags(a=1), Fingerprint("moon", "sees another moon than", {"phase": "full"})])
    assert "process 1 of 2 on host1 sees another moon than process 0 on host0: phase is full, not absent" in said


def test_alone_nothing_is_gathered():
    check_alike("the test", lambda: pytest.fail("gathered"))
