"""The compiled functions of an experiment."""

from jax.sharding import Mesh

from transformer.models import Architecture
from transformer.training import mup
from transformer.training.experiment import Experiment
from transformer.training.optimizer import make_optimizer, make_schedule
from transformer.training.step import Program, make_program


def program_of(experiment: Experiment, architecture: Architecture, mesh: Mesh) -> Program:
    """Returns what an experiment compiles to; nothing is compiled yet.

    Args:
      experiment: all but the model.
      architecture: its own, or another that its checkpoint is to fit.
      mesh: today's devices, or an abstract one.

    Raises:
      UserError: a parameter that the mesh does not divide.
    """
    scaling = mup.scaling(architecture, experiment.mup, experiment.optimizer)
    factors = None if scaling is None else scaling.factors
    return make_program(
        architecture,
        experiment.execution,
        experiment.objective,
        lambda names, rates: make_optimizer(experiment.optimizer, rates, names, factors),
        make_schedule(experiment.optimizer, experiment.train.steps),
        mesh,
        seed=experiment.train.seed,
        accumulation=experiment.train.accumulation,
        rescaled=None if scaling is None else scaling.rescaled,
    )
