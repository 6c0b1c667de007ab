"""Agreement between the processes of a job, before any of them acts.

A process that raises alone leaves the others waiting for it in a collective. So wherever one process may see what the
others do not (a damaged file, a full disk, another listing of a folder), they first tell each other how it went. They
do so over JAX's coordination service: no device takes part, and every wait has a deadline and names who is late.

A single process exchanges nothing, and pays nothing.
"""

import collections
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax

from transformer.errors import UserError
from transformer.paths import explain

T = TypeVar("T")

DEADLINE = 600.0
"""Default of the seconds that a process waits for the others."""
LONG = 24 * 3600.0
"""Deadline in seconds for work that may take one process hours, such as building its own store of tokens."""
_rounds: collections.Counter[str] = collections.Counter()


def alone() -> bool:
    """Whether this process is not part of a job of several; starts no backend to find out."""
    return coordination() is None or _state().num_processes == 1


def own_index() -> int:
    """Returns the index of this process; 0, the leading one's, where it is alone."""
    return _state().process_id or 0


def coordinator_host() -> str:
    """Returns the name or address of the leading process's machine, by which all others reach it."""
    return _state().coordinator_address.rsplit(":", 1)[0].strip("[]")


def process_name(index: int | None = None) -> str:
    """Returns the name of a process in messages, by default of this one: `process 1 of 4`."""
    return f"process {own_index() if index is None else index} of {_state().num_processes}"


def exchange(what: str, value: T, *, deadline: float = DEADLINE) -> list[T]:
    """Returns every process's `value`, by process index. All processes must call it, each of them as often.

    Args:
      what: the question's name, which messages show; each name counts its own rounds, so that the questions of
        different threads do not mix.
      value: plain JSON values.
      deadline: seconds to wait for the last.

    Raises:
      UserError: a process did not answer; the message names it.
    """
    if alone():
        return [value]
    folder = _meet(what, value, deadline)
    answers = {key.rpartition("/")[2]: answer for key, answer in coordination().key_value_dir_get(folder)}
    return [json.loads(answers[str(index)]) for index in range(_state().num_processes)]


def from_lead(what: str, value: T, *, deadline: float = DEADLINE) -> T:
    """Returns the leading process's `value` on every process; a value of JSON. See `exchange`."""
    if alone():
        return value
    folder = _meet(what, value if own_index() == 0 else None, deadline)
    return json.loads(coordination().key_value_try_get(f"{folder}/0"))


@contextlib.contextmanager
def together(what: str, *, deadline: float = DEADLINE) -> Iterator[None]:
    """Makes an error that one process raises in the block an error of every process at the block's end.

        with together("opening the data"):
            corpus = prepare(...)

    All processes must come here. A process that fails tells the others at once and raises its own error; the others
    raise the error of the first process that failed, as a `UserError` with the same message and exit code. The block
    must hold no collective: the others would wait in it for the process that failed.

    Args:
      what: the name of the work, which messages show; see `exchange`.
      deadline: seconds that the first to finish waits for the last.
    """
    try:
        yield
    except Exception as error:
        # This process raises its own error in any case, with its traceback if it is a bug.
        with contextlib.suppress(UserError):
            _agree_on(what, error, deadline)
        raise
    _agree_on(what, None, deadline)


def together_do(what: str, action: Callable[[], T], *, deadline: float = DEADLINE) -> T:
    """Returns the result of `action()`, once it has raised on no process; see `together`."""
    with together(what, deadline=deadline):
        return action()


def lead_does(what: str, action: Callable[[], T], *, deadline: float = DEADLINE) -> T:
    """Returns on every process the result of `action()` on the leading one, which alone calls it; a value of JSON.

    An error that it raises there, all raise.
    """
    with together(what, deadline=deadline):
        value = action() if own_index() == 0 else None
    return from_lead(what, value, deadline=deadline)  # type: ignore[return-value]


def _agree_on(what: str, error: Exception | None, deadline: float) -> None:
    """Tells the others this process's error, or None; raises the error of the first process that has one."""
    own = None if error is None else describe(error)
    for index, failure in enumerate(exchange(what, own, deadline=deadline)):
        if failure is not None and index != own_index():
            raise_again(failure)


def describe(error: BaseException) -> dict[str, Any]:
    """Returns an error as JSON values, for `raise_again` on another process."""
    message = " ".join(str(error).split()) if str(error).strip() else type(error).__name__
    if isinstance(error, Exception) and (line := explain(error)) is not None:
        return {"message": line, "exit_code": UserError.exit_code}
    if not isinstance(error, UserError):
        message = f"{message} (in {process_name()} on {socket.gethostname()})"
    return {"message": message, "exit_code": getattr(error, "exit_code", 1)}


def raise_again(failure: dict[str, Any]) -> NoReturn:
    """Raises an error that another process described."""
    error = UserError(failure["message"])
    error.exit_code = failure["exit_code"]
    raise error


def coordination() -> Any:
    """Returns the client of JAX's coordination service; None where this process is not part of a job."""
    return _state().client


def _state() -> Any:
    """Returns JAX's private record of the job: `process_id`, `num_processes`, `client`."""
    from jax._src import distributed

    return distributed.global_state


def _meet(what: str, value: Any, deadline: float) -> str:
    """Leaves `value` for the others and waits until all have left theirs; returns the folder of all values.

    It costs each process one barrier and one listing, however many processes there are.
    """
    client = coordination()
    _rounds[what] += 1
    folder, before = (f"transformer/{what}/{_rounds[what] - back}" for back in (0, 1))
    client.key_value_set(f"{folder}/{own_index()}", json.dumps(value))
    try:
        client.wait_at_barrier(folder, int(1000 * deadline))
    except jax.errors.JaxRuntimeError as error:
        raise UserError(_who_is_missing(what, folder, error)) from error
    if _rounds[what] > 1:  # all are in this round, so all have read the one before
        client.key_value_delete(f"{before}/{own_index()}")
    return folder


def _who_is_missing(what: str, folder: str, error: Exception) -> str:
    """Returns a message that names the first process that left no value."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service may be gone
        there = {key.rpartition("/")[2] for key, _ in coordination().key_value_dir_get(folder)}
        for index in range(_state().num_processes):
            if str(index) not in there:
                return f"{what}: {process_name(index)} did not answer in time: is it there?"
    return f"{what}: {process_name()} lost the others: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
