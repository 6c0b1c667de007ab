"""Batches made by worker processes, in the order of their steps and the same to the bit, whatever their number.

Worker w of N makes batches s + w, s + w + N, ... and writes them to a pipe of its own, which this process reads in
turn. Pipes alone hold them together: no lock, shared memory or temporary file is left behind, whoever is killed. A
worker whose reader is gone ends at its next write; a reader whose worker is gone finds the end of the pipe, at once.
(Grain's `mp_prefetch` leaves its processes behind when its own is killed, polls for dead ones, waits for each to end,
and runs the main script again in each.)
"""

import contextlib
import fcntl
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any, Literal

import cloudpickle
import grain

from transformer.errors import UserError

Item = tuple[Literal["batch", "error", "end"], Any]

_A_CORE = 4
"""Workers that a core can be given: what waits for a disk can share one."""
_PIPE_BYTES = 1 << 20
"""What a pipe is asked to hold, the most that Linux gives to anybody: less waiting for each other."""
_LAST_WORDS = 10.0
"""Seconds for a process whose pipe has ended to end too."""
_NEVER_BLOCKED = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGABRT,
    signal.SIGTRAP,
    signal.SIGSYS,
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
}
"""Signals that report a fault, or that a shell's job control sends."""


def check_workers(workers: int) -> None:
    """Raises UserError for more workers than this machine has a use for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers > cores * _A_CORE:
        raise UserError(
            f"--data.workers {workers}: this process has {cores} cores, which more than {cores * _A_CORE} workers "
            f"would only take from each other: give at most {cores * _A_CORE}"
        )


class WorkerBatches(Iterator[Any]):
    """The batches of `dataset` from number `start` on, made by worker processes until `close`.

    Args:
      dataset: what it refers to is sent to each worker, by cloudpickle; so records should open their files by path.
      start: the first batch.
      workers: how many processes.
      ahead: batches that wait here, at most; each worker has one more.

    Raises:
      UserError: on `next`, in place of a batch: the worker that should have made it was killed.
      Exception: likewise, whatever making the batch raised in the worker.
    """

    def __init__(self, dataset: grain.MapDataset, start: int, *, workers: int, ahead: int):
        self._room = threading.Semaphore(ahead)
        self._items: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._over = False
        self._processes = _start(dataset, start, workers)
        self._reader = threading.Thread(target=self._read, daemon=True, name="data workers")
        self._reader.start()

    def __next__(self) -> Any:
        if self._over:
            raise StopIteration
        kind, value = self._items.get()
        if kind == "batch":
            self._room.release()
            return value
        self.close()
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """Ends the workers, wherever they are; may be called again."""
        if self._over:
            return
        self._over = True
        for process in self._processes:
            process.kill()  # they hold nothing that would be lost
        self._room.release()
        self._reader.join()
        for process in self._processes:
            process.wait()
            _output(process).close()

    def _read(self) -> None:
        """The thread's work: the workers' batches, in turn, as there is room."""
        for number in itertools.cycle(range(len(self._processes))):
            self._room.acquire()
            if self._over:
                return
            try:
                item = pickle.load(_output(self._processes[number]))
            except (EOFError, OSError, pickle.UnpicklingError):
                item = "error", self._death(number)
            except Exception as error:  # a batch that cannot be read here: the one who asks for it gets to know
                item = "error", error
            self._items.put(item)
            if item[0] != "batch":
                return

    def _death(self, number: int) -> UserError:
        process = self._processes[number]
        name = f"data worker {number + 1} of {len(self._processes)} (process {process.pid})"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORDS)
        code = process.returncode
        if code is not None and code < 0:
            return UserError(
                f"{name} was killed by {signal.Signals(-code).name}. If memory ran out, lower --data.workers; then run "
                "the same command again"
            )
        return UserError(f"{name} ended before its time (exit code {code}); what it said stands above")


def _start(dataset: grain.MapDataset, start: int, workers: int) -> list[subprocess.Popen[bytes]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    # They import JAX, for objectives do, but never start it: no accelerator, no cluster. One thread each.
    environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    # As in the training process, glibc keeps what is freed for the next batch: mapping it anew takes as long as using.
    environment |= {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
    environment |= {
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    command = [sys.executable, "-P", "-m", "transformer.data.worker", str(start), str(workers)]
    with tempfile.TemporaryFile() as file, _signals_blocked():
        file.write(cloudpickle.dumps(dataset))
        file.flush()
        processes = [
            subprocess.Popen([*command, str(number)], stdin=file, stdout=subprocess.PIPE, env=environment)
            for number in range(workers)
        ]
    for process in processes:
        with contextlib.suppress(AttributeError, OSError):  # not everywhere, and a user has only so much
            fcntl.fcntl(_output(process), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return processes


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """While processes are started: they inherit that from their first instruction on, and never hear a signal.

    A terminal sends Ctrl-C, and a scheduler SIGTERM, to all processes; what it means is this one's to decide.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _NEVER_BLOCKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _output(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    return process.stdout
