"""Beginning a run or going on with one: the leading process inspects its folder and decides for all."""

import dataclasses
import os
from collections.abc import Callable

from flax.traverse_util import flatten_dict

from transformer.checkpoint.adapted import Base
from transformer.checkpoint.local import check_place
from transformer.cluster import failures, fingerprints
from transformer.cluster.agreement import from_lead, lead_does, own_index, together
from transformer.cluster.alike import check_alike
from transformer.cluster.fingerprints import Fingerprint
from transformer.data.dataset import Dataset
from transformer.errors import UserError
from transformer.paths import errors_at
from transformer.training import corpus_record
from transformer.training import experiment as experiments
from transformer.training.experiment import Experiment
from transformer.training.lock import RunLock
from transformer.training.run import Run


def inspect(run: Run, lock: RunLock, experiment: Experiment, report: Callable[[str], None]) -> bool:
    """Returns whether the run has begun before; writes nothing. All processes must call it.

    Raises:
      UserError: the processes differ in what must be the same in all of them, another start of the run is going on, or
        the folder holds another experiment, or no run at all.
    """
    check_alike("how the processes were started", lambda: _of_start(experiment))
    # Only now, as starting the devices of unlike processes may fail in ways that name nothing.
    check_alike("the devices", lambda: [fingerprints.devices()])
    if experiment.checkpoint.local_dir is not None:
        check_place(experiment.checkpoint.local_dir, run.folder)

    def decide() -> bool:
        lock.check_free()
        for field, (old, new) in _check(run, experiment).items():
            report(f"{field} is {new!r} from here on (it was {old!r})")
        return run.begun

    return lead_does("looking at the run folder", decide)


def begin(
    run: Run,
    lock: RunLock,
    experiment: Experiment,
    dataset: Dataset,
    base: Base | None = None,
    *,
    begun: bool,
    report: Callable[[str], None],
) -> dict[str, bytes]:
    """Takes the run's lock, and records the run; returns the files that go into every checkpoint.

    All processes must call it. The leading one writes; the others get no files, as their checkpoints carry none.

    Args:
      base: the base of its adapter, if it has one.
      begun: as `inspect` returned it.

    Raises:
      UserError: the dataset differs from the run's, or between processes; another start took the lock meanwhile; or the
        processes do not share the folder.
    """
    sources = [*dataset.about.identity["sources"].values()]
    check_alike("the corpus", lambda: [fingerprints.corpus(sources, dataset.fingerprint)])

    def record() -> dict[str, bytes]:
        notes = _data_notes(run, dataset, experiment) if begun else []
        run.folder.mkdir(parents=True, exist_ok=True)
        lock.take()
        if (failure := failures.taken_from(run.folder)) is not None:
            report(failure)
        if run.begun != begun:
            raise UserError(f"{run.folder}: another start of this run came in between: run the same command again")
        _check(run, experiment)  # again, now that no other process writes
        for note in notes:
            report(note)
        return run.begin(recorded(experiment), dataset, base)

    files: dict[str, bytes] = {}
    with together("beginning the run"):
        if own_index() == 0:
            with errors_at(os.fspath(run.folder)):
                files = record()
    holder = from_lead("who leads the run", lock.record)
    with together("finding the run folder"):
        if own_index() > 0:
            lock.seen(holder)
    failures.into(run.folder, lambda: lock.is_others(holder))
    return files


def recorded(experiment: Experiment) -> Experiment:
    """Returns the experiment as it is recorded: without the fields that hold for one start alone."""
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, changed=False))


def _check(run: Run, experiment: Experiment) -> dict[str, tuple]:
    return run.check(recorded(experiment), corpus_changed=experiment.data.changed)


def _data_notes(run: Run, dataset: Dataset, experiment: Experiment) -> list[str]:
    before = run.recorded_data()
    if before is None:
        return [f"{run.data} is written now: this run began before corpora were recorded by their content"]
    notes = corpus_record.check(before, dataset.about.identity, experiment.data)
    return [f"{note}, as --data.changed says" for note in notes]


def _of_start(experiment: Experiment) -> list[Fingerprint]:
    """Returns what must be the same in all processes of a run before any of them starts its devices."""
    fields = flatten_dict(experiments.to_dict(experiment), sep=".")
    places = {f"data.{name}" for name in experiment.data.places} | {"checkpoint.local_dir"}
    alike = {field: value for field, value in fields.items() if field not in places}  # each machine may have its own
    return [fingerprints.code(), fingerprints.libraries(), fingerprints.flags(alike), fingerprints.environment()]
