"""Watchdog: two threads of each process that end it when the phase of now is past its deadline, and say who is late.

One thread looks at the clock. Once the phase has lasted too long, it calls the roll through JAX's key-value store; the
other thread of each process answers with its standing, and writes its stacks. Whoever does not answer is stopped or
stuck, and else the standings tell who is behind (`standing`). All processes leave with one line and exit code 124
(`leaving`). The main thread takes no part: it may be in a collective that never ends, and pays nothing for an update.
"""

import contextlib
import faulthandler
import itertools
import os
import socket
import sys
import sysconfig
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

import jax

from transformer.cluster import deadlines, failures, standing
from transformer.cluster.agreement import (
    STANDINGS,
    alone,
    coordination,
    own_index,
    process_count,
    waiting,
)
from transformer.cluster.config import Deadlines
from transformer.cluster.leaving import end_all, when_all_ended
from transformer.cluster.phases import current, enter
from transformer.cluster.standing import Standing, Verdict, silent_verdict, verdict
from transformer.errors import Late

_CALLS, _ANSWERS = "transformer/roll-calls", "transformer/roll"
_LOOK = 0.5
"""Seconds between looks at the clock, and at the service for a call."""
_ANSWER = 4.0
"""Seconds that the others get to answer a call."""
_PAUSE = 5.0
"""Seconds between calls, where the one that is late has time left."""
_DISK = 2.0
"""Seconds that a disk gets to take the stacks."""
_STOPPED = 5.0
"""Seconds without a look at the clock after which this process was stopped meanwhile."""
_LAST_RESORT = 30.0
"""Seconds after a deadline at which a process ends that cannot run its threads, because one holds Python's lock."""
_LIBRARY = (sysconfig.get_path("stdlib"), "<frozen")
_PACKAGES = ("site-packages", "dist-packages")
_JOINT = ("/jax/", "/jaxlib/", "/orbax/")
"""Folders of what all processes do together, and wait for each other in."""

_watchdog: "_Watchdog | None" = None
_joined: dict[int, Standing] = {}
"""Process -> where it was when it joined the job. Once the leading process is stopped, nobody can ask for more."""


def begin(limits: Deadlines, *, with_others: bool = False) -> None:
    """Watches this process from now to its end.

    Args:
      limits: the deadlines.
      with_others: whether all processes of the job begin now, so that one is missed which never gives a sign of life.
    """
    global _watchdog
    deadlines.use(limits)
    if _watchdog is None:
        _watchdog = _Watchdog(_joined if with_others else ())
        when_all_ended(stop)  # before JAX's service closes


def stop() -> None:
    """Ends the watch."""
    global _watchdog
    if _watchdog is not None:
        _watchdog.stop()
        _watchdog = None


@contextlib.contextmanager
def watching(limits: Deadlines) -> Iterator[None]:
    """A context of a run, which is watched. Within a command that is watched, it brings the run's deadlines.

    A run of a program that goes on afterwards begins in phase "start", and is watched to its end alone.
    """
    if _watchdog is not None:
        deadlines.use(limits)
        yield
        return
    enter("start")
    begin(limits)
    try:
        yield
    finally:
        stop()


def own_standing(beat: int = 0) -> Standing:
    """Returns where this process is."""
    now = current()
    at, is_joint = _place()
    return Standing(
        process=own_index(),
        count=process_count(),
        host=socket.gethostname(),
        pid=os.getpid(),
        phase=now.name,
        seconds=deadlines.elapsed(now),
        limit=deadlines.current_limit(),
        update=standing.update(),
        waits=waiting(),
        at=at,
        is_joint=is_joint,
        debugged=deadlines.debugged(),
        beat=beat,
    )


def all_joined(standings: Sequence[str]) -> None:
    """Takes note of where the processes of the job are as they join it, by process index: `Standing` as JSON."""
    global _joined
    _joined = dict(enumerate(map(Standing.parsed, standings)))


class _Watchdog:
    """The threads."""

    def __init__(self, expected: Iterable[int]) -> None:
        self._done = threading.Event()
        self._others = _Others(self._done, expected)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join(_ANSWER)
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        looked = time.monotonic()
        while not self._done.wait(_LOOK):
            looked, before = time.monotonic(), looked
            if looked - before > _LOOK + _STOPPED:
                deadlines.stopped(looked - before - _LOOK)
                self._others.was_stopped()
            self._arm()
            self._others.begin()
            if (missed := deadlines.missed()) is not None:
                if not deadlines.debugged():
                    self._ask(missed.flag)
                self._done.wait(_PAUSE)
                looked = time.monotonic()
            elif (silent := self._others.silent()) is not None:
                why = f", for {deadlines.silence():.0f} s ({deadlines.flag('silence')})"
                self._end_silent(silent, why, is_told=silent[0] > 0)

    def _ask(self, flag: str) -> None:
        """Ends all processes of the job, with a line that names who is late."""
        own = own_standing()
        if alone():
            self._end(verdict(own, flag, {0: own}, {}), own)
            return
        answers = deadlines.bounded(_ANSWER + 1.0, self._others.roll_call)
        if self._done.is_set() or deadlines.missed() is None:
            return
        own = own_standing()
        if answers is None:  # the service is the leading process's
            why = f"; {own.name} has been in {own.where} for {own.seconds:.0f} s, past {flag} {own.limit:g}"
            self._end_silent([0], why, is_told=False)
            return
        found = verdict(own, flag, answers, self._others.last)
        if not found.waits_on:
            self._end(found, own)

    def _end_silent(self, silent: list[int], why: str, *, is_told: bool) -> None:
        """Ends all processes of the job but those that give no sign of life."""
        own = own_standing()
        self._end(silent_verdict(own, silent, self._others.last, why), own, is_told=is_told)

    def _end(self, found: Verdict, own: Standing, *, is_told: bool = True) -> None:
        place = deadlines.bounded(_DISK, lambda: failures.write_stacks(own.process, found.message))
        stacks = f"; stacks: {place}" if place else ""
        failure = found.failure(own, Late.exit_code)
        end_all(failure | {"message": f"{failure['message']}{stacks}"}, is_told=is_told)

    def _arm(self) -> None:
        """Sets the alarm that needs no Python: it writes the stacks and ends the process with exit code 1.

        Not where it is alone: the alarm takes a Ctrl-Z for a hang.
        """
        most = deadlines.current_limit()
        if most is None or alone() or deadlines.debugged():
            faulthandler.cancel_dump_traceback_later()
            return
        left = max(most - (time.monotonic() - current().since), 0.0) + _LAST_RESORT
        faulthandler.dump_traceback_later(left, exit=True, file=sys.__stderr__ or sys.stderr)


class _Others:
    """What this process knows of the others of its job, and tells them: a thread, since the service may hang."""

    def __init__(self, done: threading.Event, expected: Iterable[int]):
        self.last: dict[int, Standing] = {}
        """Process -> the newest standing that it told."""
        self._done, self._begun = done, False
        self._changed = dict.fromkeys(expected, time.monotonic())
        """Process -> when its standing was last seen to change."""
        self._heard = time.monotonic()
        self._answered = 0
        self._beats = itertools.count(1)

    def begin(self) -> None:
        """Starts the thread, once this process has joined a job."""
        if not self._begun and not alone():
            self._begun, self._heard = True, time.monotonic()
            self.last = dict(_joined)
            threading.Thread(target=self._run, daemon=True, name="standing").start()

    def was_stopped(self) -> None:
        """Takes note that this process was stopped, and could hear nobody."""
        self._heard = time.monotonic()
        self._changed = dict.fromkeys(self._changed, self._heard)

    def silent(self) -> list[int] | None:
        """Returns the processes that have given no sign of life for too long; None: all have."""
        most, now = deadlines.silence(), time.monotonic()
        if not self._begun or most is None:
            return None
        if now - self._heard > most:
            return [0]
        if own_index() > 0:  # the leading process looks after all others
            return None
        silent = [index for index, changed in self._changed.items() if now - changed > most]
        return sorted(silent) or None

    def roll_call(self) -> dict[int, Standing]:
        """Returns process -> its standing, of those that answer."""
        client = coordination()
        number = client.key_value_increment(_CALLS, 1)
        ends, answers = time.monotonic() + _ANSWER, {}
        while len(answers) < process_count() and time.monotonic() < ends:
            self._done.wait(_LOOK / 2)
            answers = _standings(f"{_ANSWERS}/{number}")
        self.last |= _standings(STANDINGS)
        return answers

    def _run(self) -> None:
        told = 0.0
        while not self._done.wait(_LOOK):
            with contextlib.suppress(jax.errors.JaxRuntimeError, AttributeError):  # the service ends before the thread
                self._answer()
                if time.monotonic() - told >= deadlines.between_signs():
                    told = time.monotonic()
                    self._beat()
                self._heard = time.monotonic()

    def _answer(self) -> None:
        """Answers the calls that came."""
        client = coordination()
        try:
            newest = int(client.key_value_try_get(_CALLS))
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" not in str(error):
                raise
            return  # nobody called
        for number in range(self._answered + 1, newest + 1):
            client.key_value_set(
                f"{_ANSWERS}/{number}/{own_index()}/now", own_standing().to_json(), allow_overwrite=True
            )
        if newest > self._answered:
            self._answered = newest
            own = own_standing()
            line = f"{own.name} in {own.where} for {own.seconds:.0f} s"
            deadlines.bounded(_DISK, lambda: failures.write_stacks(own.process, line))

    def _beat(self) -> None:
        """Publishes this process's standing, and looks at the others'."""
        text = own_standing(next(self._beats)).to_json()
        coordination().key_value_set(f"{STANDINGS}/{own_index()}/now", text, allow_overwrite=True)
        # The leading process looks after all others, and they after that one.
        for index, seen in _standings(STANDINGS if own_index() == 0 else f"{STANDINGS}/0").items():
            before = self.last.get(index)
            if before is None or before.beat != seen.beat:
                self.last[index], self._changed[index] = seen, time.monotonic()


def _standings(folder: str) -> dict[int, Standing]:
    """Returns process -> the standing that it left in a folder of the store, in `PROCESS/now`."""
    entries = coordination().key_value_dir_get(folder)
    return {int(key.split("/")[-2]): Standing.parsed(value) for key, value in entries}


def _place() -> tuple[str, bool]:
    """Returns the main thread's innermost place outside of Python's library, and whether it is joint work."""
    first = ""
    for frame in deadlines.main_frames():
        name = frame.f_code.co_filename
        place = f"{'/'.join(name.split('/')[-2:])}:{frame.f_lineno} {frame.f_code.co_name}"
        first = first or place
        if not name.startswith(_LIBRARY) or any(folder in name for folder in _PACKAGES):
            return place, any(folder in name for folder in _JOINT)
    return first, False
