"""Leaving together: when one process of a job fails, the others must not wait for it.

Whoever fails writes why into JAX's coordination service, and leaves. A thread of each process looks there now and then,
and ends its process with the same line and exit code: its main thread may be in a collective that can never end.
"""

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from typing import NoReturn

import jax

from transformer.cluster.agreement import alone, coordination, describe, own_index

_KEY = "transformer/failed"
_LOOK = 1.0
"""Seconds between looks."""
_GRACE = 3.0
"""Seconds that a process gets to end by itself, once another has failed: they may all have the same error."""
_FAREWELL = 15.0
"""Seconds that a process that leaves waits for the others to know: the leading one takes the service with it."""

_ending = threading.Lock()


def follow() -> None:
    """Has this process follow, from now to its orderly end, if another one fails. Alone, it does nothing."""
    if alone():
        return
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(done,), daemon=True, name="leaving")
    thread.start()

    def stop() -> None:
        done.set()
        thread.join()

    atexit.register(stop)  # before JAX's own, which was registered earlier and closes the service


def leave(error: BaseException, line: str, exit_code: int) -> None:
    """Tells the other processes why this one fails, prints `line`, and ends this process with `exit_code`, at once.

    An orderly end would wait for the others at JAX's shutdown, where they never come. Returns where there are no
    others.
    """
    if alone():
        return
    client = coordination()
    failure = {**describe(error), "exit_code": exit_code}
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another failed before, or the service is gone
        client.key_value_set(_KEY, json.dumps(failure))
    _end(line, exit_code)


def _watch(done: threading.Event) -> None:
    client = coordination()
    while not done.wait(_LOOK):
        try:
            failure = json.loads(client.key_value_try_get(_KEY))
        except jax.errors.JaxRuntimeError:
            continue  # nobody failed; a service that is gone ends the process by itself
        done.wait(_GRACE)
        _end(f"error: {failure['message']}", failure["exit_code"])


def _end(line: str, exit_code: int) -> NoReturn:
    _ending.acquire()  # never released: whichever thread comes first ends the process
    print(line, file=sys.stderr, flush=True)
    sys.stdout.flush()
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        coordination().wait_at_barrier("transformer/leaving", int(1000 * _FAREWELL))
    time.sleep(0.2 if own_index() == 0 else 0.0)  # the service goes last
    os._exit(exit_code)
