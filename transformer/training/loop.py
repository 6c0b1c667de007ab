"""The loop: an experiment and a folder in, a trained run out."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from transformer.cluster import failures, fingerprints, standing, watchdog
from transformer.cluster.agreement import alone, own_index, together_do
from transformer.cluster.alike import check_alike
from transformer.cluster.phases import each, enter, phase
from transformer.training import experiment as experiments
from transformer.training import opening
from transformer.training.evaluation import Evaluation
from transformer.training.experiment import Experiment
from transformer.training.instruments import Instruments, attached
from transformer.training.interrupt import Now, StopRequest, stop_on_signal
from transformer.training.ledger import Ledger
from transformer.training.opening import OpenRun
from transformer.training.patience import Patience
from transformer.training.progress import Progress
from transformer.training.run import Run
from transformer.training.session import Session
from transformer.training.state import Batch, TrainState


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of a finished run."""

    run: Run
    session: Session
    evaluation: Evaluation
    params: Any
    """What was trained (`Session.weights` makes a whole model of it)."""
    step: int


def train(
    experiment: Experiment,
    workdir: epath.PathLike,
    *,
    profile: bool = False,
    whole_process: bool = False,
    report: Callable[[str], None] = print,
) -> Result:
    """Trains `experiment` in the folder `workdir`, going on where that run stopped.

    Args:
      experiment: the experiment.
      workdir: a new or empty folder, or the folder of the same experiment.
      profile: whether to write a trace of a few steps to `workdir/profile`.
      whole_process: whether this process is there for this run alone, so that all its seconds count; see `Ledger`.
      report: called with a line for people now and then.

    Raises:
      UserError: something about the input is wrong; the message says what.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
    """
    experiment, run = experiments.absolute(experiment), Run(workdir)
    report = report if own_index() == 0 else lambda line: None
    enter("start")
    with (
        watchdog.watching(experiment.cluster.deadlines),
        failures.none_yet(),
        Ledger(whole_process=whole_process) as ledger,
        stop_on_signal(*experiment.checkpoint.signals, resume=f"To go on: {run.command}") as stop,
        opening.opened(run, experiment, ledger, stop, report) as opened,
    ):
        updates = Updates(opened, stop)
        with (
            opened.session.batches(updates.step, workers=experiment.data.workers) as batches,
            attached(opened, ledger, report, newest=lambda: updates.state, profile=profile) as instruments,
        ):
            is_stopped = updates.make(batches, instruments)
        enter("exit")
        opened.saver.summary(updates.step - opened.first.step)
        report(ledger.account().line())
        if is_stopped:
            raise stop.interrupted(f" after step {updates.step} of {experiment.train.steps}, saved")
        if (reason := updates.ended_early) is not None:
            report(f"stopped after step {updates.step} of {experiment.train.steps}: {reason}")
        evaluation = updates.last_evaluation()
    return Result(run, opened.session, evaluation, updates.state.params, int(updates.state.step))


class Updates:
    """The updates of one start of a run, and the evaluations and saves between them."""

    step: int
    """Number of updates made so far, by earlier starts too."""
    state: TrainState
    evaluation: Evaluation | None
    """The evaluation of this state; None: there was none."""

    def __init__(self, opened: OpenRun, stop: StopRequest):
        self._session, self._saver, self._stop = opened.session, opened.saver, stop
        self._first = self.step = opened.first.step
        self._evaluates_first = opened.evaluates_first
        self.state, self.evaluation = opened.first.take(), None
        experiment = opened.session.experiment
        self._patience = Patience.of(experiment.train.patience, experiment.checkpoint, opened.run, self.step)
        standing.count_updates(self)

    def make(self, batches: Iterator[Batch], instruments: Instruments) -> bool:
        """Makes the updates that are left, and saves the last state; returns whether a signal stopped it.

        Args:
          batches: the batches of these updates, on the devices.
          instruments: what reads the updates.
        """
        train, progress, is_stopped = self._session.experiment.train, instruments.progress, False
        try:
            if self._evaluates_first:
                self._evaluate(progress)
            while self.step < train.steps and not self._patience.is_over:
                self._update(batches, instruments)
                if train.evaluates_after(self.step):
                    progress.flush()
                    self._evaluate(progress)
                self._saver.after(self.step, self.state, self.evaluation, pause=progress.flush)
        except Now:
            is_stopped = True
        progress.flush()
        with phase("save"):
            self._saver.finish(self.step, self.state, self.evaluation)
        return is_stopped

    @property
    def ended_early(self) -> str | None:
        """Why no update was made after this one, though steps were left; None: none were."""
        left = self.step < self._session.experiment.train.steps
        return self._patience.reason() if left and self._patience.is_over else None

    def last_evaluation(self) -> Evaluation:
        """Returns the evaluation of the last state; makes it where nothing was left to train, so nothing evaluated."""
        with phase("evaluation"):
            return self.evaluation or self._session.evaluate(
                self.state.params, through=lambda batches: each("evaluation", batches)
            )

    def _update(self, batches: Iterator[Batch], instruments: Instruments) -> None:
        enter("data")
        with self._stop.waiting():
            batch = next(batches)
        is_first = self.step == self._first
        self.step += 1
        instruments.profiler.before(self.step)
        enter("compile" if is_first else "step")
        with self._stop.compiling() if is_first else contextlib.nullcontext():
            self._compile_together(batch)
            instruments.clock.dispatches()
            self.state, metrics = self._session.program.step(self.state, batch)
            instruments.clock.dispatched(self.step, metrics["loss"])
        enter("step")
        instruments.progress.step(self.step, metrics)
        self.evaluation = None
        self._stop.check()

    def _evaluate(self, progress: Progress) -> None:
        with phase("evaluation"):
            self.evaluation = self._session.evaluate(
                self.state.params, through=lambda batches: each("evaluation", self._stop.each(batches))
            )
        self._patience.evaluated(self.evaluation)
        progress.evaluated(self.step, self.evaluation.row())

    def _compile_together(self, batch: Batch) -> None:
        """Compiles the step for batches of a new width on all processes, before one runs it; alone, running does.

        One process may find it compiled and another not, and a process that runs it waits half a minute for the others.
        """
        program = self._session.program
        if not alone() and not program.is_compiled(batch):
            lowered = together_do("lowering the step", lambda: program.lower_step(self.state, batch))
            check_alike("the program", lambda: [fingerprints.program(lowered)])
            together_do("compiling the step", lambda: program.compile_step(lowered, batch))
