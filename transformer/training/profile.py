"""A trace of a few steps, to be read by TensorBoard's profile plugin, XProf or Perfetto."""

import jax
from etils import epath

PROFILED = (10, 15)
"""Range of traced steps, counted from the start: compilation is over by then."""


class Profiler:
    """Starts and stops the trace as steps go by; without a folder it does nothing."""

    def __init__(self, folder: epath.Path | None, first: int):
        self._folder, self._first, self._running = folder, first, False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """Called before update number `step` is dispatched."""
        if self._folder is None:
            return
        if step - self._first == PROFILED[0]:
            jax.profiler.start_trace(str(self._folder))
            self._running = True
        elif step - self._first == PROFILED[1]:
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
