"""Restoring: the state that a start of a run goes on from."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

from transformer.checkpoint import Checkpoints, Damaged, lineage
from transformer.checkpoint.local import LocalCheckpoints
from transformer.cluster.agreement import lead_does
from transformer.models import architecture_to_dict
from transformer.training.experiment import Experiment
from transformer.training.run import Run
from transformer.training.session import Session
from transformer.training.state import TrainState, checkpointables


class FirstState:
    """The state that a start goes on from, until somebody takes it.

    Args:
      state: the state.
      is_evaluated: whether an evaluation due at its step was made.
      durable: step of the newest durable checkpoint; 0 for none.
    """

    def __init__(self, state: TrainState, *, is_evaluated: bool, durable: int):
        self.step = int(state.step)
        """Number of updates made before."""
        self.is_evaluated, self.durable = is_evaluated, durable
        self._state: TrainState | None = state

    def take(self) -> TrainState:
        """Returns the state, and keeps no hold of it: the first update takes its memory."""
        state, self._state = self._state, None
        assert state is not None
        return state


@contextlib.contextmanager
def local_checkpoints(run: Run, experiment: Experiment, *, begun: bool) -> Iterator[LocalCheckpoints | None]:
    """Gives the run's local checkpoints, if it is to keep any; if not, none that it has kept counts any more."""
    place = experiment.checkpoint.local_dir
    if place is None:
        lead_does("looking for local checkpoints", lambda: lineage.forget(run.folder))
        yield None
        return
    with LocalCheckpoints(place, run.folder, architecture_to_dict(experiment.model), begun=begun) as local:
        yield local


def first_state(
    session: Session, checkpoints: Checkpoints, local: LocalCheckpoints | None, report: Callable[[str], None]
) -> FirstState:
    """Returns the newest checkpoint's state, or the initial one.

    All processes go on from the same state: a checkpoint that one of them sees damaged is damaged for all. A local
    checkpoint that is newer than the durable ones goes first, if all processes can read theirs.

    Raises:
      Damaged: the newest checkpoint is damaged, and --checkpoint.fallback is not given.
    """
    steps = lead_does("listing the checkpoints", lambda: checkpoints.steps)
    if local is None:
        return _durable(session, checkpoints, steps, report)
    newest = steps[-1] if steps else 0
    restored = local.restore(newest, report, **checkpointables(session.program.abstract))
    if restored is None:
        began = time.perf_counter()
        first = _durable(session, checkpoints, steps, report)
        if first.durable:
            report(
                f"restored step {first.durable:,} from the durable checkpoint in {time.perf_counter() - began:.1f} s"
            )
        local.begin(None)
        return first
    local.begin(restored)
    report(
        f"restored step {restored.step:,} from local checkpoints in {restored.seconds:.1f} s "
        f"({f'durable: step {newest:,}' if newest else 'there is no durable one'})"
    )
    state = dataclasses.replace(restored.opt_state, params=restored.params)
    return FirstState(state, is_evaluated=restored.evaluated, durable=newest)


def _durable(session: Session, checkpoints: Checkpoints, steps: list[int], report: Callable[[str], None]) -> FirstState:
    """Returns the newest durable checkpoint's state, or the initial one."""
    while steps:
        step = steps.pop()
        try:
            params, rest, is_evaluated = checkpoints.restore(step, **checkpointables(session.program.abstract))
        except Damaged as error:  # which all processes raise, whichever of them saw it
            if not session.experiment.checkpoint.fallback:
                offer = f" To go on from step {steps[-1]}: --checkpoint.fallback True" if steps else ""
                raise Damaged(f"{error}.{offer}") from error
            report(f"{error}. It is set aside as {checkpoints.set_aside(step)}")
            continue
        return FirstState(dataclasses.replace(rest, params=params), is_evaluated=is_evaluated, durable=step)
    return FirstState(session.initial_state(report), is_evaluated=True, durable=0)
