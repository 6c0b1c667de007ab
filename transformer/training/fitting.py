"""Fitting a task's experiment to its data and weights: what neither a preset nor a person can know before."""

import dataclasses
import math
from collections.abc import Callable

from etils import epath

from transformer import checkpoint
from transformer.data.kinds import survey
from transformer.errors import UserError
from transformer.models.architecture import Architecture
from transformer.objectives.objective import Objective
from transformer.training.experiment import Experiment
from transformer.training.session import Session


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


def fitted(
    experiment: Experiment, report: Callable[[str], None], tokenizer_dir: epath.PathLike | None = None
) -> Experiment:
    """Returns an experiment whose model tells the classes of its data, and whose length is that of its epochs.

    A model that knows all of the classes already keeps them, and their order.

    Args:
      experiment: of any objective; one that fine-tunes nothing is returned as it is.
      report: gets a line where the classes are set.
      tokenizer_dir: as `Session`'s: where the tokenizer of a run is that goes on.

    Raises:
      UserError: something about the data that a person can mend.
    """
    objective, model, train = experiment.objective, experiment.model, experiment.train
    if not objective.fine_tunes:
        if train.epochs is not None:
            raise UserError(
                f"--train.epochs {train.epochs:g}: the examples of {objective.name} are not counted: give --train.steps"
            )
        return experiment
    told = survey(experiment.data, objective.reading(train.seq_len))
    if told is None:  # the tokenizer decides how many rows conversations fill
        rows = () if train.epochs is None else Session(experiment, tokenizer_dir=tokenizer_dir).dataset.train
        return _of_epochs(experiment, sum(map(len, rows)))
    fields = objective.model_fields(told.labels)
    known = bool(told.labels) and set(told.labels) <= set(model.labels)
    if fields and not (known and model.problem == fields.get("problem_type")):
        model = dataclasses.replace(model, **fields)
        if told.labels:
            report(f"{len(told.labels)} classes: {_shortly(told.labels)}")
    return _of_epochs(dataclasses.replace(experiment, model=model), told.examples)


def _of_epochs(experiment: Experiment, examples: int) -> Experiment:
    """Returns an experiment with as many steps as its epochs of so many examples take; as it is, if it has none."""
    train = experiment.train
    if train.epochs is None:
        return experiment
    steps = math.ceil(train.epochs * examples / train.batch_size)
    return dataclasses.replace(experiment, train=dataclasses.replace(train, steps=steps))


def _shortly(labels: tuple[str, ...], most: int = 12) -> str:
    return ", ".join(labels[:most]) + (", ..." if len(labels) > most else "")
