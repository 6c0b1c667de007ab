"""Opening a run: refused, or this start's alone, ready on today's devices and restored."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import jax

from transformer.checkpoint import Checkpoints
from transformer.cluster.agreement import together
from transformer.cluster.deadlines import allowing
from transformer.cluster.phases import phase
from transformer.data.workers import check_workers
from transformer.training import base as bases
from transformer.training import beginning, restoring
from transformer.training.announcement import announce
from transformer.training.experiment import Experiment
from transformer.training.interrupt import StopRequest
from transformer.training.ledger import Ledger
from transformer.training.lock import RunLock
from transformer.training.restoring import FirstState
from transformer.training.run import Run
from transformer.training.saving import Saver
from transformer.training.session import Session
from transformer.training.state import checkpointables
from transformer.training.throughput import Throughput


@dataclasses.dataclass(frozen=True)
class OpenRun:
    """A run that is ready for its next update."""

    run: Run
    session: Session
    first: FirstState
    saver: Saver
    throughput: Throughput

    @property
    def evaluates_first(self) -> bool:
        """Whether an evaluation comes before its next update: a stop came before this evaluation, or in it."""
        return not self.first.is_evaluated and self.session.experiment.train.evaluates_after(self.first.step)


@contextlib.contextmanager
def opened(
    run: Run, experiment: Experiment, ledger: Ledger, stop: StopRequest, report: Callable[[str], None]
) -> Iterator[OpenRun]:
    """A context in which a run is this start's alone, in its session's mesh. All processes must come here.

    Args:
      run: begun before, or not.
      experiment: as it is to go on.
      ledger: gets its place in the run's folder.
      stop: may stop this start at any instant of the opening.
      report: called with lines for people.

    Raises:
      UserError: something about the input is wrong, or another start has the run.
      Interrupted: a signal came.
    """
    with contextlib.ExitStack() as stack:
        with stop.free():
            lock = stack.enter_context(RunLock(run.folder, report))
            begun = beginning.inspect(run, lock, experiment, report)
            check_workers(experiment.data.workers)
            base = bases.of_run(run, experiment, begun=begun)
            session = Session(
                bases.with_base(beginning.recorded(experiment), base), tokenizer_dir=run.tokenizer if begun else None
            )
            program = session.program  # what the mesh does not divide is refused before a corpus is read
            with allowing("prepare"):
                with together("preparing the data"):
                    dataset = session.dataset
                record = beginning.begin(run, lock, experiment, dataset, base, begun=begun, report=report)
            ledger.keep(run.goodput, program.remat.policy)
            stack.enter_context(jax.set_mesh(session.mesh))
            checkpoints = stack.enter_context(Checkpoints(run.checkpoints, experiment.checkpoint))
            with phase("restore"):
                local = stack.enter_context(restoring.local_checkpoints(run, experiment, begun=begun))
                _ = session.frozen  # by all processes, before the first update asks for them
                first = restoring.first_state(session, checkpoints, local, report)
        checkpoints.prepare(**checkpointables(program.abstract))
        throughput = announce(session, first.step, run.folder, report)
        saver = Saver(checkpoints, experiment.checkpoint, record, first.durable, stop, report, local)
        yield OpenRun(run, session, first, saver, throughput)
