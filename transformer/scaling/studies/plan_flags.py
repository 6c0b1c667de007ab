"""What `tools/scaling.py plan` is asked; apart, because it imports JAX, which a table's fit does without."""

import dataclasses
from typing import Annotated

import tyro

from transformer.models.resizing import Shaping
from transformer.scaling.studies.plan import Request
from transformer.training.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Plan:
    """Plan a study: a folder of experiments, to be run, fitted and reported."""

    study: tyro.conf.Positional[str]
    """A new folder."""
    request: Annotated[Request, tyro.conf.arg(name="")]
    """What the study is to tell."""
    experiment: Annotated[Experiment, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    """What every run has in common."""
    shape: Shaping = Shaping()
    """What makes a size well-shaped."""
    preset: str = "gpt-scaling"
    """Whose model gives the proportions, and whose data and optimizer all sizes get."""
    probe: bool = True
    """Time a few updates of each size."""
    jobs: int = 1
    """Runs that are to be made at a time: for the estimate of the time."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """The one flag that is needed before all others: it says whose defaults they have."""

    preset: str = "gpt-scaling"
