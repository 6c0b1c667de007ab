"""Saving a run's state by its cadence: durable checkpoints, and local ones between them."""

import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from transformer.checkpoint import CheckpointConfig, Checkpoints, Saved
from transformer.checkpoint.interval import young_daly
from transformer.checkpoint.local import LocalCheckpoints
from transformer.cluster.agreement import alone, exchange, from_lead
from transformer.cluster.phases import enter, phase
from transformer.errors import UserError
from transformer.training.evaluation import Evaluation
from transformer.training.interrupt import StopRequest
from transformer.training.state import TrainState, checkpointables

Kind = Literal["durable", "local"]
"""Kinds of checkpoints."""

_AGREE_EVERY = 10
"""Updates after which several processes ask the leading one whether it is time to save, or a failed save to repeat."""
_RETRY_SECONDS, _RETRIES = 60.0, 30
"""Seconds between tries, and number of tries, of the save without which a run cannot end."""


class Saver:
    """Saves a run's state by its cadence. A save that fails is reported, and the training goes on.

    Several processes all save after the same updates. They learn at different times how a save ended, so the leading
    one decides what follows, or all decide once all know.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        config: CheckpointConfig,
        record: dict[str, bytes],
        first: int,
        stop: StopRequest,
        report: Callable[[str], None],
        local: LocalCheckpoints | None = None,
    ):
        self._checkpoints, self._config, self._record, self._local = checkpoints, config, record, local
        self._stop, self._report = stop, report
        self._saved: list[Saved] = []
        self._locally_saved: list[Saved] = []
        self._newest = first
        self._began = self._tried = self._any_tried = time.monotonic()

    def after(self, step: int, state: TrainState, evaluation: Evaluation | None, *, pause: Callable[[], None]) -> None:
        """Saves the state after an update, if it is time; and reports how the save before went.

        Args:
          step: the update's number.
          state: the state after it.
          evaluation: the evaluation of that state, if there was one.
          pause: called before a save, which the throughput must not count.
        """
        self._take(wait=False)
        kind = self._due(step)
        if kind is not None:
            pause()
            with phase("save"):
                (self._save if kind == "durable" else self._save_locally)(step, state, evaluation)

    def finish(self, step: int, state: TrainState, evaluation: Evaluation | None) -> None:
        """Saves the last state, and returns once it is saved. Waits for room on the disk.

        Raises:
          UserError: there was no room in time, or a signal came meanwhile; the same on every process.
        """
        self._take(wait=True)
        for _ in range(_RETRIES):
            if self._newest == step:
                return
            self._save(step, state, evaluation)
            self._take(wait=True)
            if self._newest == step:
                return
            enter("save")
            leaves = self._stop.signal is not None or self._stop.wait(_RETRY_SECONDS)
            if any(exchange("the last save", leaves)):
                break
        raise UserError(
            f"{self._checkpoints.folder}: step {step} could not be saved; "
            f"{f'the newest checkpoint is that of step {self._newest}' if self._newest else 'there is no checkpoint'}: "
            "make room, then run the same command again"
        )

    def summary(self, steps: int) -> None:
        """Reports what saving cost and, given a mean time between failures, how often to save."""
        if local := [save for save in self._locally_saved if save.failure is None]:
            self._report(f"saved {len(local)} times locally, {_cost(local)}")
        saved = [save for save in self._saved if save.failure is None]
        if not saved:
            return
        blocked, seconds = _medians(saved)
        self._report(f"saved {len(saved)} times, {_cost(saved)}")
        if self._config.mtbf_hours is not None and steps:
            interval = max(young_daly(blocked, 3600 * self._config.mtbf_hours), seconds)
            step_seconds = (time.monotonic() - self._began) / steps
            self._report(
                f"with a failure every {self._config.mtbf_hours:g} hours, save every {interval:,.0f} s "
                f"(Young and Daly): --checkpoint.every {max(round(interval / step_seconds), 1):,}"
            )

    def _save(self, step: int, state: TrainState, evaluation: Evaluation | None) -> None:
        """Starts saving, so that the run goes on from the batch after update number `step`."""
        self._tried = self._any_tried = time.monotonic()
        self._checkpoints.save(
            step,
            **checkpointables(state),
            data={"step": step},
            record=self._record,
            metrics=evaluation.row() if evaluation else None,
        )

    def _save_locally(self, step: int, state: TrainState, evaluation: Evaluation | None) -> None:
        assert self._local is not None
        self._any_tried = time.monotonic()
        self._local.save(step, **checkpointables(state), evaluated=evaluation is not None)

    def _due(self, step: int) -> Kind | None:
        """Returns which checkpoint to save after this update, if any; the same on every process."""
        if step % self._config.every == 0 or step in self._config.at:
            return "durable"
        every = self._config.local_every
        local_step = self._local is not None and every is not None and step % every == 0
        if not alone() and step % _AGREE_EVERY and not local_step:
            return None
        minutes = self._config.every_minutes
        failed = bool(self._saved) and self._saved[-1].failure is not None
        waited = time.monotonic() - self._tried
        late = (minutes is not None and waited >= 60 * minutes) or (failed and waited >= _RETRY_SECONDS)
        return from_lead("whether to save", "durable" if late else "local" if self._locally_due(local_step) else None)

    def _locally_due(self, local_step: bool) -> bool:
        """Whether to save locally, seen from this process: never while the local save before is under way."""
        if self._local is None or self._local.busy:
            return False
        minutes = self._config.local_every_minutes
        return local_step or (minutes is not None and time.monotonic() - self._any_tried >= 60 * minutes)

    def _take(self, *, wait: bool) -> None:
        """Takes note of the saves that have ended; with `wait`, of all that were begun."""
        while self._local is not None and (local := self._local.outcome(wait=wait)) is not None:
            self._locally_saved.append(local)
            if local.failure is not None:
                self._report(
                    f"step {local.step} could not be saved in {self._config.local_dir}: {local.failure}. "
                    "The training goes on"
                )
        while (saved := self._checkpoints.outcome(wait=wait)) is not None:
            self._saved.append(saved)
            if saved.failure is None:
                self._newest = saved.step
                if self._local is not None:
                    self._local.drop(saved.step)
                if saved.warning:
                    self._report(f"step {saved.step} is saved, but {saved.warning}")
                continue
            before = f"the one of step {self._newest} is whole" if self._newest else "there is none yet"
            failed = f"step {saved.step} could not be saved: {saved.failure}; {before}"
            self._report(f"{failed}. The training goes on, and tries again")


def _medians(saved: Sequence[Saved]) -> tuple[float, float]:
    """Returns the seconds that the training waited for a save, and that the whole took."""
    return float(np.median([save.blocked for save in saved])), float(np.median([save.seconds for save in saved]))


def _cost(saved: Sequence[Saved]) -> str:
    blocked, seconds = _medians(saved)
    return (
        f"{saved[-1].size / 1e6:,.1f} MB each: the training waited {blocked:.2f} s, the whole took {seconds:.2f} s "
        "(medians)"
    )
