"""The base of a run's adapter: decided at its first start, found again and known by its digest at each later one."""

import dataclasses

from transformer.checkpoint import adapted
from transformer.checkpoint.adapted import Base
from transformer.cluster.agreement import lead_does
from transformer.errors import UserError
from transformer.training.experiment import Experiment
from transformer.training.run import Run


def of_run(run: Run, experiment: Experiment, *, begun: bool) -> Base | None:
    """Returns the base of a run's adapter, where it lies now; None: the run trains a whole model. The leading process
    looks for all.

    Args:
      run: the run.
      experiment: the experiment.
      begun: whether the run has begun before, so that its base is decided.

    Raises:
      UserError: there are no such weights, or others than those that the adapter is of.
    """
    if experiment.adapter.rank == 0:
        return None

    def look() -> list[str]:
        base = _recorded(run) if begun else adapted.base_of(str(experiment.init.path), experiment.adapter)
        return [base.path, base.digest]

    path, digest = lead_does("looking at the base of the adapter", look)
    return Base(path, digest, experiment.adapter)


def _recorded(run: Run) -> Base:
    base = adapted.read(run.folder)
    if base is None:
        raise UserError(f"{run.folder / adapted.NAME}: no such file: it names the base of the run's adapter")
    return dataclasses.replace(base, path=str(adapted.located(base, run.folder)))


def with_base(experiment: Experiment, base: Base | None) -> Experiment:
    """Returns the experiment as a session reads it: it starts from the very checkpoint that is its adapter's base."""
    if base is None:
        return experiment
    return dataclasses.replace(experiment, init=dataclasses.replace(experiment.init, path=base.path))
