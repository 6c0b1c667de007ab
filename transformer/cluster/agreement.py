"""Agreement between the processes of a job, before any of them acts.

A process that raises alone leaves the others waiting for it in a collective. So wherever one process may see what the
others do not (a damaged file, a full disk, another listing of a folder), they first tell each other how it went. They
do so over JAX's coordination service: no device takes part, and every wait has a deadline and names who is late.

A single process exchanges nothing, and pays nothing.
"""

import collections
import contextlib
import json
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import jax

from transformer.cluster import deadlines, phases
from transformer.cluster.standing import Standing, update
from transformer.errors import Late, UserError
from transformer.paths import explain

T = TypeVar("T")

STANDINGS = "transformer/standings"
"""Where in JAX's key-value store each process publishes its standing now and then, in `PROCESS/now`."""
_rounds: collections.Counter[str] = collections.Counter()
_ORIGIN = ("process", "host", "phase", "step", "traceback")
_TRACEBACK = 16_000
"""Characters of a traceback, from its end, that the others are told."""
_REPEATED = re.compile(r"([^:]+: )\1+")
"""What an error of XLA's says once for each program that waited for the one that failed."""
_waiting: str | None = None
"""What the main thread waits for the others in."""


def alone() -> bool:
    """Whether this process is not part of a job of several; starts no backend to find out."""
    return coordination() is None or _state().num_processes == 1


def own_index() -> int:
    """Returns the index of this process; 0, the leading one's, where it is alone."""
    return _state().process_id or 0


def coordinator_host() -> str:
    """Returns the name or address of the leading process's machine, by which all others reach it."""
    return _state().coordinator_address.rsplit(":", 1)[0].strip("[]")


def process_count() -> int:
    """Returns the number of processes of the job; 1 where this one is alone."""
    return _state().num_processes or 1


def waiting() -> str | None:
    """Returns what the main thread waits for the others in, such as "the flags"; None if it does not."""
    return _waiting


def process_name(index: int | None = None) -> str:
    """Returns the name of a process in messages, by default of this one: `process 1 of 4`."""
    return f"process {own_index() if index is None else index} of {_state().num_processes}"


def attributed(line: str, index: int) -> str:
    """Returns a line about a process, with its name where there are several."""
    return line if alone() else f"{line} ({process_name(index)})"


def exchange(what: str, value: T, *, deadline: float | None = None) -> list[T]:
    """Returns every process's `value`, by process index. All processes must call it, each of them as often.

    Args:
      what: the question's name, which messages show; each name counts its own rounds, so that the questions of
        different threads do not mix.
      value: plain JSON values.
      deadline: seconds to wait for the last; by default those of the phase of now.

    Raises:
      Late: a process did not answer in time; the message names it.
      UserError: the others are gone.
    """
    if alone():
        return [value]
    folder = _meet(what, value, deadline)
    answers = {key.rpartition("/")[2]: answer for key, answer in coordination().key_value_dir_get(folder)}
    return [json.loads(answers[str(index)]) for index in range(_state().num_processes)]


def from_lead(what: str, value: T, *, deadline: float | None = None) -> T:
    """Returns the leading process's `value` on every process; a value of JSON. See `exchange`."""
    if alone():
        return value
    folder = _meet(what, value if own_index() == 0 else None, deadline)
    return json.loads(coordination().key_value_try_get(f"{folder}/0"))


@contextlib.contextmanager
def together(what: str, *, deadline: float | None = None) -> Iterator[None]:
    """Makes an error that one process raises in the block an error of every process at the block's end.

        with together("opening the data"):
            corpus = prepare(...)

    All processes must come here. A process that fails tells the others at once and raises its own error; the others
    raise the error of the first process that failed, as a `UserError` with the same message and exit code. The block
    must hold no collective: the others would wait in it for the process that failed.

    Args:
      what: the name of the work, which messages show; see `exchange`.
      deadline: seconds that the first to finish waits for the last; by default those of the phase of now.
    """
    try:
        yield
    except Exception as error:
        # This process raises its own error in any case, with its traceback if it is a bug.
        with contextlib.suppress(UserError):
            _agree_on(what, error, deadline)
        raise
    _agree_on(what, None, deadline)


def together_do(what: str, action: Callable[[], T], *, deadline: float | None = None) -> T:
    """Returns the result of `action()`, once it has raised on no process; see `together`."""
    with together(what, deadline=deadline):
        return action()


def lead_does(what: str, action: Callable[[], T], *, deadline: float | None = None) -> T:
    """Returns on every process the result of `action()` on the leading one, which alone calls it; a value of JSON.

    An error that it raises there, all raise.
    """
    with together(what, deadline=deadline):
        value = action() if own_index() == 0 else None
    return from_lead(what, value, deadline=deadline)  # type: ignore[return-value]


def _agree_on(what: str, error: Exception | None, deadline: float | None) -> None:
    """Tells the others this process's error, or None; raises the error of the first process that has one."""
    own = None if error is None else describe(error)
    for index, failure in enumerate(exchange(what, own, deadline=deadline)):
        if failure is not None and index != own_index():
            raise_again(failure)


def describe(error: BaseException) -> dict[str, Any]:
    """Returns an error as JSON values, for `raise_again` on another process."""
    message = " ".join(str(error).split()) if str(error).strip() else type(error).__name__
    message = _REPEATED.sub(r"\1", message)
    if isinstance(error, Exception) and (line := explain(error)) is not None:
        return {"message": line, "exit_code": UserError.exit_code} | _origin(error, None)
    if isinstance(error, UserError):
        return {"message": message, "exit_code": error.exit_code} | _origin(error, None)
    origin = _origin(error, "".join(traceback.format_exception(error))[-_TRACEBACK:])
    message = f"{message} (in {process_name()} on {socket.gethostname()}, {phase_name(origin)})"
    return {"message": message, "exit_code": 1} | origin


def raise_again(failure: dict[str, Any]) -> NoReturn:
    """Raises an error that another process described."""
    error = UserError(failure["message"])
    error.exit_code = failure["exit_code"]
    error.origin = {name: failure[name] for name in _ORIGIN}  # pyright: ignore[reportAttributeAccessIssue]
    raise error


def phase_name(origin: Mapping[str, Any]) -> str:
    """Returns the phase in which a failure came, for messages: `phase step (update 123)`."""
    return f"phase {origin['phase']}" + ("" if origin["step"] is None else f" (update {origin['step']})")


def _origin(error: BaseException, trace: str | None) -> dict[str, Any]:
    """Returns where an error was raised first: the process, its host, the phase, the update; and a bug's traceback."""
    here = (own_index(), socket.gethostname(), phases.phase_of(error), update(), trace)
    return getattr(error, "origin", None) or dict(zip(_ORIGIN, here, strict=True))


def coordination() -> Any:
    """Returns the client of JAX's coordination service; None where this process is not part of a job."""
    return _state().client


def _state() -> Any:
    """Returns JAX's private record of the job: `process_id`, `num_processes`, `client`."""
    from jax._src import distributed

    return distributed.global_state


def _meet(what: str, value: Any, deadline: float | None) -> str:
    """Leaves `value` for the others and waits until all have left theirs; returns the folder of all values.

    It costs each process one barrier and one listing, however many processes there are.
    """
    client = coordination()
    _rounds[what] += 1
    folder, before = (f"transformer/{what}/{_rounds[what] - back}" for back in (0, 1))
    seconds = deadlines.patience() if deadline is None else deadline
    client.key_value_set(f"{folder}/{own_index()}", json.dumps(value))
    try:
        with wait_for_others(what):
            client.wait_at_barrier(folder, int(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
        raise _missing(what, folder, seconds, error) from error
    if _rounds[what] > 1:  # all are in this round, so all have read the one before
        client.key_value_delete(f"{before}/{own_index()}")
    return folder


@contextlib.contextmanager
def wait_for_others(what: str) -> Iterator[None]:
    """A context in which this thread waits for the other processes, so that it is not taken for the late one."""
    global _waiting
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _waiting = what
    try:
        yield
    finally:
        _waiting = None


def _missing(what: str, folder: str, seconds: float, error: Exception) -> UserError:
    """Returns an error that names the first process that left no value, and the phase that it is in."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service may be gone
        there = {key.rpartition("/")[2] for key, _ in coordination().key_value_dir_get(folder)}
        late = [index for index in range(_state().num_processes) if str(index) not in there]
        if late:
            more = f" (and {len(late) - 1} more)" if len(late) > 1 else ""
            name = standing.name_and_phase if (standing := standing_of(late[0])) else process_name(late[0])
            return Late(f"{what}: {name}{more} did not answer within {seconds:.0f} s")
    return UserError(f"{what}: {process_name()} lost the others: {_first_line(error)}")


def standing_of(index: int) -> Standing | None:
    """Returns the newest standing that a process published; None if it did not."""
    try:
        return Standing.parsed(coordination().key_value_try_get(f"{STANDINGS}/{index}/now"))
    except jax.errors.JaxRuntimeError:
        return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
