"""Worker processes on this machine that read corpora and make shards.

They stop within a batch of text when the build fails or is interrupted, and at once when its process dies.
"""

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any

from transformer.data.receipts import Facts, Scan, Unit
from transformer.data.text.build import TOKENIZER, Job
from transformer.errors import UserError
from transformer.tokenizers.kinds import load_tokenizer

_LOOK_SECONDS = 0.2

# A new interpreter a worker: this process may have threads, and memory that no worker needs.
_CONTEXT = multiprocessing.get_context("spawn")


class Workers:
    """Makes shards by `count` processes."""

    def __init__(self, count: int):
        self._count = count

    def map(self, scan: Scan, units: Iterable[Unit]) -> Iterator[Facts]:
        """As the built-in `map`, by the workers."""
        units = list(units)
        if len(units) < 2:
            yield from map(scan, units)
            return
        with _pool(min(self._count, len(units)), _begin_reading, ()) as (pool, _):
            # Many small files together: each task costs a fraction of a millisecond.
            with _no_interrupt():
                facts = pool.map(scan, units, chunksize=max(1, min(256, len(units) // (16 * self._count))))
            yield from facts

    def make(self, job: Job, numbers: Sequence[int], advance: Callable[[int], object]) -> None:
        job.tokenizer.save(job.folder / TOKENIZER)
        arguments = (job._replace(tokenizer=None), max(1, (os.cpu_count() or 1) // self._count))
        with _pool(min(self._count, len(numbers)), _begin_job, arguments) as (pool, made):
            with _no_interrupt():
                waiting = {pool.submit(_make, number) for number in numbers}
            reported = 0
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, _LOOK_SECONDS, concurrent.futures.FIRST_COMPLETED)
                advance(made.value - reported)
                reported = made.value
                for future in done:
                    future.result()
        shutil.rmtree(job.folder / TOKENIZER)


@contextlib.contextmanager
def _pool(count: int, begin: Callable[..., None], arguments: tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    """Gives a pool whose workers are gone at the end of the block, and a count of bytes that they share."""
    stop, made = _CONTEXT.Event(), _CONTEXT.Value("q", 0)
    pool = concurrent.futures.ProcessPoolExecutor(
        count, _CONTEXT, initializer=functools.partial(begin, stop, made), initargs=arguments
    )
    try:
        yield pool, made
    except BrokenProcessPool:
        stop.set()
        raise UserError(
            "A worker process was killed, perhaps for its memory. Finished shards are kept: run the same command "
            "again, or with fewer --workers."
        ) from None
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Processes that start in this block never get SIGINT: Ctrl-C reaches all of a terminal, and the parent decides."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Stopped(Exception):
    """The build ended while this worker made a shard."""


class _Worker:
    """What a worker process knows."""

    job: Job
    stop: Any
    made: Any

    @classmethod
    def advance(cls, size: int) -> None:
        with cls.made.get_lock():
            cls.made.value += size
        if cls.stop.is_set():
            raise _Stopped


def _begin_reading(stop: Any, made: Any) -> None:
    _begin(stop, made)
    threading.Thread(target=_leave_when, args=(stop,), daemon=True).start()


def _leave_when(stop: Any) -> None:
    """Ends this process when the reading failed elsewhere: it leaves nothing half-made, and a file may be large."""
    stop.wait()
    os._exit(1)


def _begin(stop: Any, made: Any) -> None:
    _Worker.stop, _Worker.made = stop, made
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """Ends this process when its parent is gone: nobody would stop it otherwise."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _begin_job(stop: Any, made: Any, job: Job, threads: int) -> None:
    _begin(stop, made)
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # Hugging Face's tokenizers; read when they first run
    _Worker.job = job._replace(tokenizer=load_tokenizer(job.folder / TOKENIZER))


def _make(number: int) -> None:
    with contextlib.suppress(_Stopped):
        _Worker.job.make(number, _Worker.advance)
