"""Run a command until it is done, where no scheduler does: python tools/launch/supervise.py -- python train.py ...

It starts the command again when the run can go on (a crash, a deadline, an interruption, a kill), and not when its
input is wrong, when it is done, or after a signal, which it passes on. On several hosts each process of the job has a
supervisor of its own: the processes of a job end together, so they are started again together.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from transformer import command
from transformer.errors import Interrupted, UserError
from transformer.signals import PAIR

if TYPE_CHECKING:
    from etils import epath

CRASH, DEADLINE = 1, 124
COMES_BACK = (CRASH, DEADLINE, Interrupted.exit_code)
"""Exit codes after which the same command goes on; so do all that tell of a signal."""
SAME_STEP = 3
"""Starts in a row that may end at the same step."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl.h: the signal that a process gets when its parent dies."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """How often and how soon to start again."""

    restarts: int | None = None
    """At most so many times; None: as long as the run gets on."""
    backoff: float = 10.0
    """Seconds before a restart, give or take a quarter; doubled at each restart without a newer checkpoint."""
    max_backoff: float = 600.0
    """The most that these seconds become."""

    def delay(self, unsaved: int) -> float:
        """Returns the seconds to wait after `unsaved` restarts without a newer checkpoint."""
        return min(self.backoff * 2.0 ** min(unsaved, 30), self.max_backoff) * random.uniform(0.75, 1.25)


@dataclasses.dataclass(frozen=True)
class Reached:
    """How far a run has come, in steps; 0 for not at all."""

    saved: int = 0
    """The newest complete checkpoint."""
    logged: int = 0
    """The last row of `metrics.jsonl`, on a disk."""

    def or_further(self, other: "Reached") -> "Reached":
        return Reached(max(self.saved, other.saved), max(self.logged, other.logged))


class RunFolder:
    """What a run folder tells about its run, without JAX."""

    def __init__(self, path: str):
        self._path: Path | epath.Path = Path(path).expanduser()
        self._is_remote = "://" in path
        if self._is_remote:
            from etils.epath import Path as RemotePath  # a fifth of a second, which no run on a disk need wait for

            self._path = RemotePath(path)

    def reached(self) -> Reached:
        """Returns how far the run has come."""
        folder, metrics = self._path / "checkpoints", self._path / "metrics.jsonl"
        # A complete checkpoint has its name on a disk, and in an object store a file that says so.
        saved = [
            int(entry.name)
            for entry in (folder.iterdir() if folder.is_dir() else ())
            if entry.name.isdigit() and (not self._is_remote or (entry / "commit_success.txt").exists())
        ]
        lines = [] if self._is_remote or not metrics.is_file() else metrics.read_bytes().splitlines()
        logged = next((step for line in reversed(lines) if (step := _step(line)) is not None), 0)
        return Reached(max(saved, default=0), logged)

    def failure(self) -> dict[str, Any]:
        """Returns `failure.json`, in which a process that fails says why; empty if there is none."""
        try:
            record = json.loads((self._path / "failure.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}


class Child:
    """The command's process, to which signals are passed on."""

    def __init__(self, args: Sequence[str]):
        self.was_signalled = False
        self._args = args
        self._process: subprocess.Popen | None = None
        self._unsent: list[int] = []
        self._pair_end = 0.0

    def run(self) -> int:
        """Returns the exit code of a new process of the command; negative if a signal killed it.

        Raises:
          UserError: it cannot be started.
        """
        try:
            self._process = subprocess.Popen(self._args, preexec_fn=_end_with_parent())
        except OSError as error:
            raise UserError(f"{self._args[0]} cannot be started: {error.strerror}") from error
        self._pass_on()
        code = self._process.wait()
        self._process = None
        return code

    def sleep(self, seconds: float) -> None:
        """Waits for so long, or for a signal."""
        end = time.monotonic() + seconds
        while not self.was_signalled and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """A context in which signals are passed on; a hangup that is ignored (`nohup`) stays so."""
        before = {
            number: signal.signal(number, self._handle)
            for number in PASSED_ON
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        self.was_signalled = True
        if time.monotonic() < self._pair_end:  # the same request again
            return
        self._pair_end = time.monotonic() + PAIR
        self._unsent.append(number)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._process is not None and self._unsent:
            self._process.send_signal(self._unsent.pop(0))


def supervise(args: Sequence[str], folder: RunFolder, limits: Limits, report: Callable[[str], None]) -> int:
    """Runs a command until it is done, until a signal comes, or until starting it again is no use.

    Args:
      args: the command.
      folder: the folder of its run.
      limits: of restarts.
      report: called with a line for people.

    Returns:
      The command's exit code; negative if a signal killed it.
    """
    child = Child(args)
    furthest, at_same_step, unsaved, restarts = Reached(), 0, 0, 0
    with child.signals():
        while True:
            failure_before = folder.failure()
            code = child.run()
            if child.was_signalled or not _comes_back(code):
                return code
            reached, failure = folder.reached(), folder.failure()
            before, furthest = furthest, reached.or_further(furthest)
            at_same_step = at_same_step + 1 if furthest == before else 1
            unsaved = unsaved + 1 if furthest.saved == before.saved else 0
            cause = _cause(code, failure if failure != failure_before else {})
            where = f"step {reached.logged or reached.saved} (the newest checkpoint: {reached.saved or 'none'})"
            if at_same_step == SAME_STEP:
                report(f"gave up: {SAME_STEP} starts in a row got no further than {where}: {cause}")
                return code
            if restarts == limits.restarts:
                report(f"gave up after {restarts} restarts, at {where}: {cause}")
                return code
            restarts += 1
            delay = limits.delay(max(unsaved - 1, 0))
            report(f"{cause}, at {where}; restart {restarts} in {delay:.0f} s")
            child.sleep(delay)
            if child.was_signalled:
                return code


def main(args: list[str]) -> NoReturn:
    """Runs the command line."""
    end = args.index("--") if "--" in args else len(args)
    chosen, started = _parser().parse_args(args[:end]), args[end + 1 :]
    if not started:
        raise UserError("no command: python tools/launch/supervise.py [FLAGS] -- python train.py PRESET --workdir RUN")
    folder = chosen.run or _workdir(started)
    if not folder:
        raise UserError("where is the run? give the command a --workdir, or --run FOLDER before the --")
    for name in ("max_restarts", "backoff", "max_backoff"):
        value = getattr(chosen, name)
        if value is not None and not 0 <= value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} is {value:g}: it must be at least 0, and finite")
    limits = Limits(chosen.max_restarts, chosen.backoff, chosen.max_backoff)
    code = supervise(started, RunFolder(folder), limits, _say)
    sys.exit(code if code >= 0 else 128 - code)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = _Parser(usage="supervise.py [FLAGS] -- COMMAND ...", description=__doc__, allow_abbrev=False)
    parser.add_argument("--max-restarts", type=int, metavar="N", help="by default as many as the run gets on with")
    parser.add_argument(
        "--backoff",
        type=float,
        default=Limits.backoff,
        metavar="SECONDS",
        help="before a restart, give or take a quarter; doubled at each one without a newer checkpoint (%(default)s)",
    )
    parser.add_argument(
        "--max-backoff",
        type=float,
        default=Limits.max_backoff,
        metavar="SECONDS",
        help="the most that they become (%(default)s)",
    )
    parser.add_argument("--run", metavar="FOLDER", help="the run folder; by default the command's --workdir")
    return parser


def _workdir(args: Sequence[str]) -> str | None:
    """Returns the run folder that a command names."""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        name, equals, value = arg.partition("=")
        if name == "--workdir":
            return value if equals else following
    return None


def _comes_back(code: int) -> bool:
    return code in COMES_BACK or _killer(code) is not None


def _killer(code: int) -> str | None:
    """Returns the signal that killed a process; a shell in between adds 128 to its number."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number in {*signal.Signals} else None


def _cause(code: int, failure: dict[str, Any]) -> str:
    """Returns why a process ended: the message of the process of its job that failed first, if it left one."""
    if message := " ".join(str(failure.get("message", "")).split()):
        places = {"process {}": "process", "on {}": "host", "in {}": "phase"}
        place = " ".join(text.format(failure[key]) for text, key in places.items() if failure.get(key) is not None)
        return f"{message} ({place})" if place else message
    killer = _killer(code)
    return f"exit code {code}" if killer is None else f"killed by {killer}"


def _step(line: bytes) -> int | None:
    """Returns the step of a row of metrics; None if a kill cut it."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        step = json.loads(line)["step"]
        return step if type(step) is int else None
    return None


def _end_with_parent() -> Callable[[], None] | None:
    """Returns what a new process calls so that it gets SIGTERM, and saves, if this one is killed; None but on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _say(line: str) -> None:
    print(f"supervise: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
