"""Replay: one step of a run, run again from the checkpoint before it, with its batch and its key.

A resumed run is bit for bit the run that was not interrupted, so walking from a checkpoint to a step gives the state
that the run had there. Nothing is written.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from transformer.checkpoint import reading
from transformer.debugging.capsule import samples_of
from transformer.debugging.examine import Examination, examine
from transformer.errors import UserError
from transformer.parallel.mesh import MeshConfig, least_devices
from transformer.training import base as bases
from transformer.training import experiment as experiments
from transformer.training.experiment import Experiment
from transformer.training.run import Run
from transformer.training.session import Session
from transformer.training.state import TrainState, checkpointables


@dataclasses.dataclass(frozen=True)
class Sample:
    """A row of the step's batch."""

    place: int
    """Place in the sample stream, as `--train.skip-samples` takes it."""
    corpus: str
    """Name of the corpus in the experiment."""
    record: int
    epoch: int
    skipped: bool
    """Whether the run left it out."""
    loss: float | None
    """Loss without dropout, nats a target; None for a row without targets, or where only a whole batch has a loss."""
    texts: tuple[str, ...]
    """Texts of the record: one, or source and target."""


@dataclasses.dataclass(frozen=True)
class Replay:
    """A step that was run again."""

    step: int
    began: int
    """The update after which the weights were taken: step - 1 if the state is the run's own."""
    examination: Examination
    metrics: dict[str, float]
    """Metrics that the run would have logged."""
    capsule: dict[str, Any] | None
    """The run's capsule of the step, if it spiked."""
    rows: list[Sample]
    """The rows of the batch, the highest loss first."""


def replay(run: Run, step: int | None, *, alone: bool, report: Callable[[str], None]) -> Replay:
    """Runs one update of a run again.

    Args:
      run: the run.
      step: the update, 1 for the first; None: the newest that spiked.
      alone: whether to take the checkpoint's weights, rather than walk on from it to the step.
      report: called with a line now and then.

    Raises:
      UserError: there is no such run or step, the data has changed, or the checkpoint is damaged.
    """
    step, capsule = _which(run, step)
    experiment = _experiment(run, capsule)
    train = experiment.train
    if not 1 <= step <= train.steps:
        raise UserError(f"step {step}: the run has steps 1 to {train.steps}")
    experiment = dataclasses.replace(experiment, mesh=_fitting_mesh(experiment.mesh, report))
    experiment = bases.with_base(experiment, bases.of_run(run, experiment, begun=True))
    session = Session(experiment, tokenizer_dir=run.tokenizer)
    program = session.program
    if capsule is not None and capsule["corpus"] != session.dataset.fingerprint:
        raise UserError(
            f"{_name(experiment, 0)} is not the text that it was when step {step} spiked: nothing to replay"
        )
    with jax.set_mesh(session.mesh):
        state = _before(run, step, session, report)
        began = int(state.step)
        if began < step - 1 and not alone:
            count = step - 1 - began
            report(f"walking {count:,} updates from step {began:,}: the same as the run's (--alone: without)")
            state = _walk(state, step, session)
            began = step - 1
        # The key and the batch are those of the step, whatever the weights.
        state = dataclasses.replace(state, step=jax.device_put(np.int32(step - 1), state.step.sharding))
        batch = session.batch(step)
        report("looking at every module, the loss and the gradients")
        examination = examine(session, state, batch)
        rows = _rows(session, state.params, step)
        _, metrics = program.step(state, batch)  # last, for the state is donated to it
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    return Replay(step, began, examination, values, capsule, rows)


def _which(run: Run, step: int | None) -> tuple[int, dict[str, Any] | None]:
    """Returns the step to replay, and its capsule if it has one."""
    if not run.begun:
        raise UserError(f"{run.folder}: no run here")
    capsules = {int(path.stem): path for path in run.spikes.glob("*.json")} if run.spikes.exists() else {}
    if step is None:
        if not capsules:
            raise UserError(f"{run.folder}: no step of this run spiked: name the STEP to replay")
        step = max(capsules)
    if step not in capsules:
        return step, None
    try:
        return step, json.loads(capsules[step].read_text())
    except ValueError as error:
        raise UserError(f"{capsules[step]}: not JSON ({error}): delete it, then replay the step without it") from error


def _experiment(run: Run, capsule: dict[str, Any] | None) -> Experiment:
    """Returns the experiment as the capsule recorded it, or as it is now."""
    if capsule is None:
        return experiments.read(run.experiment_path)
    return experiments.from_dict(capsule["experiment"], str(run.spikes / f"{capsule['step']}.json"))


def _fitting_mesh(config: MeshConfig, report: Callable[[str], None]) -> MeshConfig:
    """Returns the run's mesh, or one device if the mesh has more devices than there are here."""
    if least_devices(config) <= jax.device_count():
        return config
    report("the run's mesh has more devices than there are here: on one, losses are equal to 1e-5, not bit for bit")
    return MeshConfig(data=1)


def _before(run: Run, step: int, session: Session, report: Callable[[str], None]) -> TrainState:
    """Returns the state of the nearest checkpoint before update `step`, or the initial state if there is none."""
    saved = [number for number in reading.steps(run.checkpoints) if number < step]
    if not saved:
        report(f"no checkpoint before step {step:,} is kept: from the start")
        return session.initial_state(report)
    path = run.checkpoints / str(saved[-1])
    report(f"restoring {path}")
    trees = reading.load(path, checkpointables(session.program.abstract))
    return dataclasses.replace(trees["opt_state"], params=trees["params"])


def _walk(state: TrainState, step: int, session: Session) -> TrainState:
    """Returns the state before update `step`."""
    began = int(state.step)
    with session.batches(began) as batches:
        for _ in tqdm(range(began + 1, step), unit="step", desc="walk", dynamic_ncols=True):
            state, metrics = session.program.step(state, next(batches))
            jax.block_until_ready(metrics)  # so that the bar tells the truth
    return state


def _rows(session: Session, params: Any, step: int) -> list[Sample]:
    """Returns the rows of an update's batch, the highest loss first and rows without a loss last."""
    experiment, dataset, rows = session.experiment, session.dataset, []
    training_rows: Any = session.training_rows
    batch = dict(training_rows[step - 1])
    for number, sample in enumerate(samples_of(session, step)):
        loss = None
        if experiment.objective.sums_over_examples:
            row = jax.tree.map(lambda x, at=number: x[at : at + 1], batch)
            sums = jax.device_get(session.program.evaluate(params, row).sums)
            loss = float(sums.metrics["nll"] / sums.weight) if sums.weight else None
        texts = dataset.show(dataset.train[sample["corpus"]][sample["record"]])
        rows.append(Sample(**{**sample, "corpus": _name(experiment, sample["corpus"]), "loss": loss, "texts": texts}))
    return sorted(rows, key=lambda row: (row.loss is None, -math.inf if _bad(row.loss) else -(row.loss or 0)))


def _bad(loss: float | None) -> bool:
    return loss is not None and not math.isfinite(loss)


def _name(experiment: Experiment, corpus: int) -> str:
    """Returns the name of a corpus in the experiment."""
    return experiment.data.sources[corpus]
