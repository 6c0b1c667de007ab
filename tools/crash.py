"""Kill a training run again and again, and see that nothing is lost: python tools/crash.py [--kills 20] [...].

A tiny run is started, sent a signal at some instant, started again with the same command, and so on until it ends.
Then its losses, its evaluations and its last checkpoint's values are compared with those of a run that nobody killed:
bit for bit. After every kill the newest complete checkpoint must verify, and be no older than before.
"""

import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from etils import epath

from transformer import command
from transformer.checkpoint import verify
from transformer.checkpoint.reading import steps
from transformer.errors import Interrupted, UserError
from transformer.training.metrics import read_rows

ROOT = Path(__file__).parent.parent
Phase = Literal["start", "compile", "step", "evaluation", "save", "any"]
PHASES: tuple[Phase, ...] = ("start", "compile", "step", "evaluation", "save", "any")
STEPS, SAVE_EVERY, EVAL_EVERY = 120, 15, 20
WORDS = ["the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "with", "as", "his", "they"]


@dataclasses.dataclass(frozen=True)
class Command:
    """Kill a tiny training run again and again, and compare it with one that was not killed."""

    kills: int = 20
    """How many signals to send, over each number of processes: SIGTERM and SIGKILL in turn, in each phase in turn."""
    processes: tuple[int, ...] = (1, 2)
    """Numbers of processes to do it with."""
    seed: int = 0
    """Seed of the instants."""
    folder: str | None = None
    """Where to work; by default a folder that is removed afterwards."""


@dataclasses.dataclass(frozen=True)
class Kill:
    """One signal that a run got."""

    signal: signal.Signals
    phase: Phase


class Run:
    """A tiny run's command line, in a folder of its own."""

    devices: int = 1
    """Devices of each process."""
    wrapper: Sequence[str] = ()
    """The command that runs each process, by default none."""

    def __init__(self, folder: Path, corpus: Path, processes: int):
        self.folder, self.processes, self._port = folder, processes, 0
        self._args = [
            *(sys.executable, str(ROOT / "train.py"), "gpt-python", "--workdir", str(folder)),
            *(
                "--data.path",
                str(corpus),
                "--data.tokenizer",
                "bytes",
                "--data.cache-dir",
                str(corpus.parent / "cache"),
            ),
            *("--model.vocab-size", "384", "--model.width", "32", "--model.num-layers", "2", "--model.num-heads", "2"),
            *("--model.context-length", "32", "--model.dropout", "0.1", "--train.seq-len", "32"),
            *("--train.batch-size", "8", "--train.steps", str(STEPS), "--train.eval-every", str(EVAL_EVERY)),
            *("--train.eval-batches", "20", "--train.log-every", "1", "--checkpoint.every", str(SAVE_EVERY)),
        ]

    @property
    def newest(self) -> int:
        """The newest complete checkpoint's step; 0 for none."""
        return max(steps(epath.Path(self.folder / "checkpoints")), default=0)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a line that is cut short is left out."""
        path = epath.Path(self.folder / "metrics.jsonl")
        return read_rows(path) if path.exists() else []

    @contextlib.contextmanager
    def started(self) -> Iterator[list[subprocess.Popen]]:
        """The processes; none of them outlives the block."""
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        environment["JAX_NUM_CPU_DEVICES"] = str(self.devices)
        args = [*self.wrapper, *self._args]
        if self.processes > 1:
            args.append("--distributed")
            environment |= {
                "JAX_COORDINATOR_ADDRESS": f"localhost:{_free_port()}",
                "JAX_NUM_PROCESSES": str(self.processes),
            }
        log = open(f"{self.folder}.log", "a")  # noqa: SIM115 - closed below
        processes = [
            subprocess.Popen(args, env=environment | {"JAX_PROCESS_ID": str(number)}, stdout=log, stderr=log)
            for number in range(self.processes)
        ]
        try:
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.wait()
            log.close()


def survive(run: Run, kills: Sequence[Kill], rng: random.Random, report: Callable[[str], None] = print) -> Counter:
    """Runs `run` to its end through all kills; returns how many came in each phase, by signal.

    A kill for which the run ended too early is sent to no one, and not counted.

    Raises:
      UserError: something was lost.
    """
    survived: Counter = Counter()
    for kill in kills:
        before = run.newest
        with run.started() as processes:
            if not wait_for(kill.phase, run, processes, rng):
                break
            target = rng.choice(processes)  # of several, one gets it
            saved = run.newest
            target.send_signal(kill.signal)
            codes = [target.wait(timeout=120)]
            if codes == [Interrupted.exit_code] and kill.phase in ("step", "evaluation", "save"):
                codes = [process.wait(timeout=60) for process in processes]  # they agreed on the step
            # Else the others miss it and leave; those that had not found it yet are ended by leaving this block.
        _check(run, kill, codes, max(before, saved))
        survived[kill.signal.name, kill.phase] += 1
        report(f"{kill.signal.name} in {kill.phase}: exit {codes}, newest checkpoint {run.newest}")
    with run.started() as processes:
        codes = [process.wait(timeout=600) for process in processes]
    if any(codes):
        raise UserError(f"{run.folder}: the run ended with {codes}: see {run.folder}.log")
    return survived


def differences(run: Run, reference: Run) -> list[str]:
    """Returns in what a run differs from the one that was not killed, a line each."""
    lines = []
    timing = ("seconds", "tokens_per_second", "mfu")
    ours, theirs = (
        [{name: value for name, value in row.items() if not name.endswith(timing)} for row in either.rows()]
        for either in (run, reference)
    )
    if ours != theirs:
        lines.append(
            f"metrics.jsonl: {sum(a != b for a, b in zip(ours, theirs, strict=False))} rows differ, "
            f"{len(ours)} rows for {len(theirs)}"
        )
    digests = [
        json.loads((either.folder / f"checkpoints/{STEPS}/record/digests.json").read_text())
        for either in (run, reference)
    ]
    for tree, leaves in digests[1].items():
        lines += [f"{tree}/{leaf}: other values" for leaf in leaves if digests[0][tree].get(leaf) != leaves[leaf]]
    return lines


def schedule(count: int) -> list[Kill]:
    """Returns so many kills: both signals in every phase, in turn."""
    kinds = [Kill(number, phase) for phase in PHASES for number in (signal.SIGTERM, signal.SIGKILL)]
    return [kinds[index % len(kinds)] for index in range(count)]


def write_corpus(folder: Path) -> None:
    """Writes a little text that is the same every time."""
    rng = random.Random(0)
    folder.mkdir(parents=True)
    for number in range(24):
        (folder / f"{number:02}.txt").write_text(" ".join(rng.choice(WORDS) for _ in range(300)) + "\n")


def _check(run: Run, kill: Kill, codes: list[int], before: int) -> None:
    good = (0, Interrupted.exit_code) if kill.signal != signal.SIGKILL else (-signal.SIGKILL,)
    # Before Python runs our handler, in its own start, a SIGTERM ends it in the default way.
    if kill.phase in ("start", "any") and kill.signal != signal.SIGKILL:
        good = (*good, -kill.signal)
    if not set(codes) <= set(good):
        raise UserError(f"{kill.signal.name} in {kill.phase}: exit {codes}: see {run.folder}.log")
    if run.newest < before:
        raise UserError(f"{kill.signal.name} in {kill.phase}: step {before} was saved, the newest is now {run.newest}")
    wrong = verify(run.folder / "checkpoints" / str(run.newest)) if run.newest else []
    # A kill between the rename and the seal leaves no hashes; the values are checked all the same.
    if wrong and wrong != ["seal.json: missing: what is not an array cannot be checked"]:
        raise UserError(f"{kill.signal.name} in {kill.phase}: checkpoint {run.newest}: {wrong[0]}")


def wait_for(phase: Phase, run: Run, processes: list[subprocess.Popen], rng: random.Random) -> bool:
    """Waits until the run is in a phase, and then a little; returns whether it still goes on."""
    newest, log = run.newest, Path(f"{run.folder}.log")
    size, metrics = log.stat().st_size, run.folder / "metrics.jsonl"
    before = metrics.stat().st_ino if metrics.exists() else None

    def described() -> bool:
        return b"from step" in log.read_bytes()[size:]

    def stepping() -> bool:
        # Until the file is another, it has the rows that the kill before left.
        if not described() or not metrics.exists() or metrics.stat().st_ino == before:
            return False
        rows = run.rows()
        return bool(rows) and rows[-1]["step"] > newest

    def evaluating() -> bool:
        rows = run.rows()
        return stepping() and rows[-1]["step"] % EVAL_EVERY == 0 and "eval_loss" not in rows[-1]

    def saving() -> bool:
        return described() and any("tmp" in path.name for path in (run.folder / "checkpoints").glob("*"))

    reached = {
        "start": lambda: True,
        "compile": described,
        "step": stepping,
        "evaluation": evaluating,
        "save": saving,
        "any": lambda: True,
    }[phase]
    little = {"start": 1.5, "compile": 0.5, "step": 1.0, "evaluation": 0.05, "save": 0.05, "any": 12.0}[phase]
    while not reached():
        if processes[0].poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(rng.uniform(0, little))
    return processes[0].poll() is None


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def main(args: list[str]) -> None:
    """Runs the command line."""
    chosen = command.parse(Command, args, prog="tools/crash.py", default=Command())
    with contextlib.ExitStack() as stack:
        folder = Path(chosen.folder or stack.enter_context(tempfile.TemporaryDirectory()))
        write_corpus(folder / "corpus")
        total: Counter = Counter()
        for processes in chosen.processes:
            print(f"{processes} process{'es' if processes > 1 else ''}, {chosen.kills} kills:", flush=True)
            reference = Run(folder / f"whole-{processes}", folder / "corpus", processes)
            survive(reference, [], random.Random(0))
            rng, left = random.Random(chosen.seed), schedule(chosen.kills)
            number = 0
            while left:  # a run that is over is begun anew
                run = Run(folder / f"killed-{processes}-{number}", folder / "corpus", processes)
                survived = survive(run, left, rng, lambda line: print(f"  {line}", flush=True))
                if wrong := differences(run, reference):
                    raise UserError(f"{run.folder}: {'; '.join(wrong[:3])}")
                print(f"  run {number}: {survived.total()} kills survived, nothing differs", flush=True)
                left, number, total = left[max(survived.total(), 1) :], number + 1, total + survived
        names = ", ".join(f"{count} {name} in {phase}" for (name, phase), count in sorted(total.items()))
        print(f"{total.total()} kills survived: {names}; 0 losses differ")


if __name__ == "__main__":
    sys.exit(command.run(lambda: main(sys.argv[1:])))
