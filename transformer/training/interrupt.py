"""Ctrl-C and a scheduler's SIGTERM: finish the step, save, then stop."""

import contextlib
import signal
from collections.abc import Iterator


class StopRequest:
    """Whether somebody asked the run to stop."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Notes the first SIGINT or SIGTERM; a second one acts as if this were not here, so it ends the run at once."""
    request = StopRequest()
    before = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _) -> None:
        request.signal = signal.Signals(number).name
        restore()

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
