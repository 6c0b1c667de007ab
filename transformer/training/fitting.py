"""Fitting a task's experiment to its data and weights: what neither a preset nor a person can know before."""

import dataclasses
import math
from collections.abc import Callable

from transformer import checkpoint
from transformer.data.kinds import Survey, survey
from transformer.errors import UserError
from transformer.models.architecture import Architecture
from transformer.objectives.objective import Objective
from transformer.training.experiment import Experiment


def model_at(path: str, objective: Objective) -> Architecture:
    """Returns the architecture of the weights at a path, with the head that an objective trains.

    Raises:
      UserError: there are none, or their family has no such head.
    """
    architecture = checkpoint.read_architecture(checkpoint.find(path))
    if architecture.head == objective.head:
        return architecture
    heads = getattr(type(architecture), "heads", (architecture.head, objective.head))
    if objective.head not in heads:
        raise UserError(
            f"--init.path {path}: a {architecture.family} model has no head {objective.head}, which the objective "
            f"{objective.name} trains; it has {', '.join(heads)}"
        )
    return dataclasses.replace(architecture, head=objective.head, labels=(), problem_type=None)


def fitted(experiment: Experiment, report: Callable[[str], None]) -> Experiment:
    """Returns an experiment whose model tells the classes of its data, and whose length is that of its epochs.

    A model that knows all of the classes already keeps them, and their order.

    Args:
      experiment: of any objective; one that fits no model to data is returned as it is.
      report: gets a line where the classes are set.

    Raises:
      UserError: something about the data that a person can mend.
    """
    objective, model, train = experiment.objective, experiment.model, experiment.train
    told = survey(experiment.data, objective.reading(train.seq_len)) if objective.fine_tunes else None
    if told is None:
        if train.epochs is not None:
            raise UserError(
                f"--train.epochs {train.epochs:g}: the examples of {objective.name} are not counted: give --train.steps"
            )
        return experiment
    fields = objective.model_fields(told.labels)
    known = bool(told.labels) and set(told.labels) <= set(model.labels)
    if fields and not (known and model.problem == fields.get("problem_type")):
        model = dataclasses.replace(model, **fields)
        if told.labels:
            report(f"{len(told.labels)} classes: {_shortly(told.labels)}")
    return dataclasses.replace(
        experiment, model=model, train=dataclasses.replace(train, steps=_steps(experiment, told))
    )


def _steps(experiment: Experiment, told: Survey) -> int:
    train = experiment.train
    if train.epochs is None:
        return train.steps
    return math.ceil(train.epochs * told.examples / train.batch_size)


def _shortly(labels: tuple[str, ...], most: int = 12) -> str:
    return ", ".join(labels[:most]) + (", ..." if len(labels) > most else "")
