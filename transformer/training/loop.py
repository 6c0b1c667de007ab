"""The loop: an experiment and a folder in, a trained run out."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
from etils import epath

from transformer.checkpoint import Checkpoints
from transformer.cluster import failures, fingerprints, standing, watchdog
from transformer.cluster.agreement import alone, own_index, together, together_do
from transformer.cluster.alike import check_alike
from transformer.cluster.deadlines import allowing
from transformer.cluster.phases import each, enter, phase
from transformer.data.workers import check_workers
from transformer.debugging.capsule import Capsules
from transformer.errors import Interrupted
from transformer.training import experiment as experiments
from transformer.training import opening
from transformer.training.announcement import announce
from transformer.training.device_clock import DeviceClock
from transformer.training.evaluation import Evaluation
from transformer.training.experiment import Experiment
from transformer.training.interrupt import Now, StopRequest, stop_on_signal
from transformer.training.ledger import Ledger
from transformer.training.lock import RunLock
from transformer.training.metrics import MetricsLog
from transformer.training.profile import Profiler
from transformer.training.progress import Progress
from transformer.training.run import Run
from transformer.training.saving import Saver
from transformer.training.session import Session
from transformer.training.state import Batch, TrainState, checkpointables
from transformer.training.stragglers import Stragglers


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of a finished run."""

    run: Run
    session: Session
    evaluation: Evaluation
    params: Any
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
    experiment = experiments.absolute(experiment)
    is_lead = own_index() == 0
    report = report if is_lead else lambda line: None
    run = Run(workdir)
    resume = f"To go on: python train.py --workdir {run.folder}"
    enter("start")
    with contextlib.ExitStack() as stack:
        stack.enter_context(watchdog.watching(experiment.cluster.deadlines))
        stack.enter_context(failures.none_yet())
        ledger = stack.enter_context(Ledger(whole_process=whole_process))
        stop = stack.enter_context(stop_on_signal(*experiment.checkpoint.signals, resume=resume))
        with stop.free():
            lock = stack.enter_context(RunLock(run.folder, report))
            begun = opening.inspect(run, lock, experiment, report)
            check_workers(experiment.data.workers)
            session = Session(opening.recorded(experiment), tokenizer_dir=run.tokenizer if begun else None)
            program = session.program  # what the mesh does not divide is refused before a corpus is read
            with allowing("prepare"):
                with together("preparing the data"):
                    dataset = session.dataset
                record = opening.begin(run, lock, experiment, dataset, begun=begun, report=report)
            ledger.keep(run.goodput, is_lead=is_lead)
            stack.enter_context(jax.set_mesh(session.mesh))
            checkpoints = stack.enter_context(Checkpoints(run.checkpoints, experiment.checkpoint))
            with phase("restore"):
                local = stack.enter_context(opening.local_checkpoints(run, experiment, begun=begun))
                opened = opening.start(session, checkpoints, local, report)
        checkpoints.prepare(**checkpointables(program.abstract))
        first = int(opened.state.step)
        throughput = announce(session, first, run.folder, report)
        saver = Saver(checkpoints, experiment.checkpoint, record, opened.durable, stop, report, local)
        clock = DeviceClock(first)
        ledger.trains(clock)
        updates = Updates(session, opened.state, saver, stop, clock)
        standing.count_updates(updates)
        # A stop came before this evaluation, or in it.
        evaluates_first = not opened.evaluated and updates.evaluation_is_due
        del opened  # the first update takes its state's memory
        capsules = Capsules(run, session, report)
        with (
            session.batches(first, workers=experiment.data.workers) as batches,
            clock,
            Stragglers(clock, report),
            MetricsLog(run, resume_from=first, evaluates_first=evaluates_first, is_lead=is_lead, report=report) as log,
            Progress(
                log,
                throughput,
                experiment.train,
                first,
                watch=lambda step, values: capsules.check(step, values, updates.state),
                account=ledger.account,
            ) as progress,
            Profiler(run.folder / "profile" if profile else None, first) as profiler,
        ):
            stopped = updates.make(batches, progress, profiler, evaluates_first=evaluates_first)
        enter("exit")
        saver.summary(updates.step - first)
        report(ledger.account().line())
        if stopped:
            raise Interrupted(
                f"{stop.signal}: stopped after step {updates.step} of {experiment.train.steps}, saved. {resume}"
            )
        # Where nothing was left to train, nothing was evaluated.
        with phase("evaluation"):
            evaluation = updates.evaluation or session.evaluate(
                updates.state.params, through=lambda batches: each("evaluation", batches)
            )
    return Result(run, session, evaluation, updates.state.params, int(updates.state.step))


class Updates:
    """The updates of one start of a run, and the evaluations and saves between them."""

    step: int
    """Number of updates made so far, by earlier starts too."""
    state: TrainState
    evaluation: Evaluation | None
    """The evaluation of this state; None: there was none."""

    def __init__(self, session: Session, state: TrainState, saver: Saver, stop: StopRequest, clock: DeviceClock):
        self._session, self._saver, self._stop, self._clock = session, saver, stop, clock
        self.state, self.evaluation = state, None
        self._first = self.step = int(state.step)

    @property
    def evaluation_is_due(self) -> bool:
        """Whether the run evaluates at this step."""
        train = self._session.experiment.train
        return self.step % train.eval_every == 0 or self.step == train.steps

    def make(self, batches: Iterator[Batch], progress: Progress, profiler: Profiler, *, evaluates_first: bool) -> bool:
        """Makes the updates that are left, and saves the last state; returns whether a signal stopped it.

        Args:
          batches: the batches of these updates, on the devices.
          progress: receives their metrics.
          profiler: traces some of them.
          evaluates_first: whether to evaluate before the first update.
        """
        stopped = False
        try:
            if evaluates_first:
                self._evaluate(progress)
            while self.step < self._session.experiment.train.steps:
                self._update(batches, progress, profiler)
                if self.evaluation_is_due:
                    progress.flush()
                    self._evaluate(progress)
                self._saver.after(self.step, self.state, self.evaluation, pause=progress.flush)
        except Now:
            stopped = True
        progress.flush()
        with phase("save"):
            self._saver.finish(self.step, self.state, self.evaluation)
        return stopped

    def _update(self, batches: Iterator[Batch], progress: Progress, profiler: Profiler) -> None:
        enter("data")
        with self._stop.waiting():
            batch = next(batches)
        is_first = self.step == self._first
        self.step += 1
        profiler.before(self.step)
        enter("compile" if is_first else "step")
        with self._stop.compiling() if is_first else contextlib.nullcontext():
            if is_first:
                self._compile_together(batch)
            self._clock.dispatches()
            self.state, metrics = self._session.program.step(self.state, batch)
            self._clock.dispatched(self.step, metrics["loss"])
        enter("step")
        progress.step(self.step, metrics)
        self.evaluation = None
        self._stop.check()

    def _evaluate(self, progress: Progress) -> None:
        with phase("evaluation"):
            self.evaluation = self._session.evaluate(
                self.state.params, through=lambda batches: each("evaluation", self._stop.each(batches))
            )
        progress.evaluated(self.step, self.evaluation.row())

    def _compile_together(self, batch: Batch) -> None:
        """Compiles the step on all processes before the first one runs it; alone, running compiles it.

        One process may find it compiled and another not, and a process that runs it waits half a minute for the others.
        """
        if not alone():
            program = self._session.program
            lowered = together_do("lowering the step", lambda: program.lower_step(self.state, batch))
            check_alike("the program", lambda: [fingerprints.program(lowered)])
            together_do("compiling the step", lambda: program.compile_step(lowered))
